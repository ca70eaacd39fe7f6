# shellcheck shell=bash disable=SC2034  # the scripts that source it read these variables
# What deploy.sh and rollback.sh share: which service follows an alias, and how it is asked. Sourced, not run.

# kit_alias ALIAS USAGE: sets python, model, url and key from the environment (see deploy.sh); ends with 2 for another alias
kit_alias() {
  local port
  case "$1" in
    staging) port=7071 ;;
    production) port=7070 ;;
    *)
      echo "error: expected staging or production, found '$1'; usage: bash $2" >&2
      exit 2
      ;;
  esac
  python=${PYTHON:-python}
  model=${MODEL:-models/kaggle}
  url=${URL:-http://127.0.0.1:$port}
  key=()
  if [ -n "${KEY_FILE:-}" ]; then
    key=(--key-file "$KEY_FILE")
  fi
}
