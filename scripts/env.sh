# Sourced by train_kaggle.sh and scripts/check.sh: sets PY to a Python that has what is needed.
# The active Python is used when its packages lie inside pyproject.toml's bounds (a Kaggle image, a user's environment); else
# the line says which does not, and .venv is made from the lock file.
# shellcheck shell=bash

kit_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

kit_fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

kit_new_python() {
  local python
  for python in python3 python python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      printf '%s' "$python"
      return
    fi
  done
  kit_fail "expected Python 3.11 or newer on the PATH, found none; install one and rerun"
}

# kit_install LOCK: .venv from a lock file; a marker with the lock's checksum says that it was finished
kit_install() {
  local lock=$1 marker base
  marker="$kit_root/.venv/$(basename "$lock").$(cksum <"$lock" | tr ' ' -)"
  PY="$kit_root/.venv/bin/python"
  [ -f "$marker" ] && return
  base=$(kit_new_python) || exit 2
  echo "Setting up .venv from $(basename "$lock") (once; several minutes on a slow connection)"
  [ -x "$PY" ] || "$base" -m venv "$kit_root/.venv" || kit_fail "could not make $kit_root/.venv; on Debian or Ubuntu install python3-venv"
  "$PY" -m pip install --quiet --disable-pip-version-check -r "$lock" || kit_fail "could not install $lock; see pip's message above"
  : >"$marker"
}

# kit_install_image: .venv-kaggle-image with the versions of Kaggle's notebook image
kit_install_image() {
  local pins="$kit_root/requirements-kaggle-image.txt" venv="$kit_root/.venv-kaggle-image" marker base
  marker="$venv/made.$(cat "$pins" "$kit_root/pyproject.toml" | cksum | tr ' ' -)"
  PY="$venv/bin/python"
  [ -f "$marker" ] && return
  base=$(kit_new_python) || exit 2
  echo "Setting up .venv-kaggle-image from $(basename "$pins") (once; several minutes on a slow connection)"
  [ -x "$PY" ] || "$base" -m venv "$venv" || kit_fail "could not make $venv; on Debian or Ubuntu install python3-venv"
  # torch on its own first: the request for an exact version decides which build is fetched
  local pip=("$PY" -m pip install --quiet --disable-pip-version-check)
  if ! { "${pip[@]}" "$(grep '^torch==' "$pins")" && "${pip[@]}" -c "$pins" -e "${kit_root}[dev]"; }; then
    kit_fail "could not install the versions of $pins; see pip's message above"
  fi
  : >"$marker"
}

# kit_environment runtime|tools|kaggle-image
kit_environment() {
  if [ "$1" = kaggle-image ]; then
    kit_install_image
    export PY
    return
  fi
  local lock="$kit_root/requirements.lock" python why
  [ "$1" = runtime ] || lock="$kit_root/requirements-dev.lock"
  PY=
  for python in python python3; do
    command -v "$python" >/dev/null 2>&1 || continue
    if why=$("$python" "$kit_root/scripts/versions.py" "$1" 2>&1); then
      PY=$(command -v "$python")
      break
    fi
    echo "Not using $(command -v "$python"): ${why##*$'\n'}" >&2
  done
  [ -n "$PY" ] || kit_install "$lock"
  export PY
}
