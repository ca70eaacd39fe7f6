#!/usr/bin/env bash
# Let a version be served: bash scripts/deploy.sh staging|production [VERSION] [flags of promote_model.py]
# Checks and links it, waits until the service's /health/ready names it, asks for 20 forecasts. When one of these fails, the
# link goes back to what it was and the exit code is 1; a version that a gate refuses is never linked (exit code 2).
#   MODEL=models/kaggle                    the model's folder
#   URL=http://127.0.0.1:7070              the service that follows the link (staging: port 7071)
#   WAIT=60  FORECASTS=20                  seconds to wait for it, forecasts to ask for
#   KEY_FILE=                              a file with the service's key
#   PYTHON=python
set -euo pipefail

alias=${1:-}
version=${2:-}
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/alias.sh
source "$scripts/alias.sh"
kit_alias "$alias" "scripts/deploy.sh staging|production [VERSION]"

promote=(--model "$model" --to "$alias")
if [ -n "$version" ]; then
  promote+=(--version "$version")
fi
if [ "$#" -gt 2 ]; then
  promote+=("${@:3}")
fi

before=$(readlink "$model/$alias" || true)
"$python" "$scripts/promote_model.py" "${promote[@]}"
now=$(readlink "$model/$alias")

if "$python" "$scripts/health_check.py" "$url" --expect "$now" --wait "${WAIT:-60}" \
  --forecasts "${FORECASTS:-20}" --package "$model/$now" "${key[@]}"; then
  echo "$alias serves $now"
  exit 0
fi

if [ "$before" = "$now" ]; then
  echo "error: $now was $alias before and does not answer as it should; the link stays" >&2
  exit 1
fi
if [ -z "$before" ]; then
  echo "error: $now does not answer as it should; nothing was $alias before, so the link stays: start a service, or remove it" >&2
  exit 1
fi
"$python" "$scripts/promote_model.py" --model "$model" --rollback --alias "$alias" --why "deploy.sh: $now did not answer"
if "$python" "$scripts/health_check.py" "$url" --expect "$before" --wait "${WAIT:-60}" "${key[@]}"; then
  echo "error: $now did not answer as it should; $alias is $before again, and served" >&2
else
  echo "error: $now did not answer as it should; $alias is $before again, but the service does not serve it" >&2
fi
exit 1
