#!/usr/bin/env python3
"""The launcher behind train_kaggle.sh: plans the run and runs its steps. `bash train_kaggle.sh -h` explains
the flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli
from kronos.launch.arguments import parse


def main() -> int:
    flags = parse(sys.argv[1:], Path.cwd())
    if flags is None:
        return 0
    from kronos.launch.recipe import launch  # -h works without the packages

    return launch(flags, Path.cwd())


if __name__ == "__main__":
    cli.run(main)
