#!/usr/bin/env bash
# From price files to a trained Kronos, a backtest and a submission: finds or makes a Python, then starts the launcher
# (kaggle/launch.py), which takes this process's place. `bash train_kaggle.sh -h` explains the flags.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"

for word in "$@"; do
  case $word in
    -h | --help) PY=$(kit_new_python) || exit 2 && exec "$PY" "$root/kaggle/launch.py" -h ;;
  esac
done
kit_environment runtime
exec "$PY" "$root/kaggle/launch.py" "$@"
