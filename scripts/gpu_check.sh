#!/usr/bin/env bash
# What only a GPU can show, in one command: tests, training in every precision, speed, memory. Needs torch, NumPy and accelerate.
# Prints a JSON line per figure and a table last. --cpu: the same, small, on a processor. Exit code 1: something failed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
exec "${PYTHON:-python3}" scripts/gpu_check.py "$@"
