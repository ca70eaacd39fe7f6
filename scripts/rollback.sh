#!/usr/bin/env bash
# Back to what production was before: bash scripts/rollback.sh [production|staging] [flags of promote_model.py --rollback]
# Checks the files of the earlier version, moves the link, waits until the service's /health/ready names it. MODEL, URL, WAIT,
# KEY_FILE, PYTHON: as in deploy.sh. Exit code 1: the link has moved, but the service does not serve it.
set -euo pipefail

alias=${1:-production}
case "$alias" in
  staging) port=7071 ;;
  production) port=7070 ;;
  *)
    echo "error: expected staging or production, found '$alias'; usage: bash scripts/rollback.sh [production|staging]" >&2
    exit 2
    ;;
esac
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python}
model=${MODEL:-models/kaggle}
key=()
if [ -n "${KEY_FILE:-}" ]; then
  key=(--key-file "$KEY_FILE")
fi

"$python" "$scripts/promote_model.py" --model "$model" --rollback --alias "$alias" "${@:2}"
now=$(readlink "$model/$alias")
"$python" "$scripts/health_check.py" "${URL:-http://127.0.0.1:$port}" --expect "$now" --wait "${WAIT:-60}" "${key[@]}"
