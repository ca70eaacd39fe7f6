#!/usr/bin/env python3
"""Gather the kit, the wheels that a machine without network lacks, a model and configurations into one
dataset folder.

By default for Kaggle's notebook image; --here for this Python version on another machine that has nothing
yet.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument(
        "--output", default="kaggle-dataset", metavar="DIR", help="folder to write (default: kaggle-dataset)"
    )
    arguments.add_argument(
        "--id", default="OWNER/kronos-kit", metavar="OWNER/NAME", help="the dataset's name on Kaggle"
    )
    arguments.add_argument("--model", metavar="FOLDER", help="a model made by scripts/package_model.py")
    arguments.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="F",
        help="a configuration to take along; may be repeated",
    )
    arguments.add_argument("--here", action="store_true", help="wheels for this Python instead of Kaggle's")
    arguments.add_argument(
        "--has",
        action="append",
        default=[],
        metavar="NAME",
        help="with --here: a package that the target has",
    )
    args = arguments.parse_args()
    cli.setup_logging()

    from kronos.delivery import bundle

    target = bundle.this_python(args.has) if args.here else bundle.KAGGLE
    folder = bundle.bundle(args.output, args.id, target, args.model, args.config)
    wheels = list((folder / "wheels").glob("*.whl"))
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20
    print(f"{folder}: the kit and {len(wheels)} wheels for Python {target.python}, {size:.1f} MiB")
    print(
        f"On the other machine:  bash {folder.name}/install.sh && cd {folder.name}/kit && bash train_kaggle.sh -h"
    )
    if not args.here:
        print(
            f"To Kaggle:             kaggle datasets create -p {folder} -r zip   (again: datasets version ... -m NOTES)"
        )


if __name__ == "__main__":
    cli.run(main)
