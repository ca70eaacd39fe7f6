#!/usr/bin/env bash
# Back to what production was before: bash scripts/rollback.sh [production|staging] [flags of promote_model.py --rollback]
# Checks the files of the earlier version, moves the link, waits until the service's /health/ready names it. MODEL, URL, WAIT,
# KEY_FILE, PYTHON: as in deploy.sh. Exit code 1: the link has moved, but the service does not serve it.
set -euo pipefail

alias=${1:-production}
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/alias.sh
source "$scripts/alias.sh"
kit_alias "$alias" "scripts/rollback.sh [production|staging]"

"$python" "$scripts/promote_model.py" --model "$model" --rollback --alias "$alias" "${@:2}"
now=$(readlink "$model/$alias")
"$python" "$scripts/health_check.py" "$url" --expect "$now" --wait "${WAIT:-60}" "${key[@]}"
