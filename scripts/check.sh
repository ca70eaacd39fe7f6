#!/usr/bin/env bash
# All checks: style, types, shell scripts, tests. Sets itself up like train_kaggle.sh. Arguments go to pytest, which then
# runs as one process; without any, two processes share the test files, one thread each.
# As the first argument: --kaggle-image, the tests alone, with the package versions of Kaggle's notebooks; --long, only the
# tests that take over a minute each, which are left out otherwise.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/env.sh
source "$root/scripts/env.sh"
cd "$root"
# kit_tests MARKER [ARGUMENT ...]
kit_tests() {
  local marker=$1
  shift
  if [ $# = 0 ]; then
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    set -- -n 2 --dist loadfile
  fi
  "$PY" -m pytest -m "$marker" "$@"
}

if [ "${1:-}" = --kaggle-image ]; then
  shift
  kit_environment kaggle-image
  PATH="$(dirname "$PY"):$PATH" exec "$PY" -m pytest -m "not long" "$@"
fi
if [ "${1:-}" = --long ]; then
  shift
  kit_environment tools
  PATH="$(dirname "$PY"):$PATH"
  kit_tests long "$@"
  exit
fi
kit_environment tools
PATH="$(dirname "$PY"):$PATH"

"$PY" -m ruff check .
"$PY" -m ruff format --check .
"$PY" -m mypy
bash -n train_kaggle.sh scripts/*.sh
shellcheck -x train_kaggle.sh scripts/*.sh .ci/run
"$PY" scripts/house.py
kit_tests "not long" "$@"
