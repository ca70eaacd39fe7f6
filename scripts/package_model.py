#!/usr/bin/env python3
"""Package a run's networks as a versioned folder: --run RUN --output models writes models/NAME/vX.Y.Z and
moves `latest`.

Without --run: --check FOLDER tests a packaged folder, --rollback FOLDER lets models/NAME/latest point to
what it pointed to before, --push OWNER/NAME alone with --folder FOLDER uploads one that exists.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli
from kronos.errors import KitError


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument("--run", metavar="RUN", help="a run folder, e.g. runs/demo")
    arguments.add_argument(
        "--output", default="models", metavar="DIR", help="where models lie (default: models)"
    )
    arguments.add_argument("--name", help="the model's name (default: the run's)")
    arguments.add_argument("--version", metavar="vX.Y.Z", help="default: the next patch version")
    arguments.add_argument(
        "--licence", default="mit", help="licence of the weights, as the hub names it (default: mit)"
    )
    arguments.add_argument(
        "--precision",
        choices=["float32", "bf16", "int8"],
        default="float32",
        help="store the predictor's weights in half (bf16) or a quarter (int8) of the size; decisions that the "
        "backtest fitted to the exact weights are then left out (default: float32)",
    )
    arguments.add_argument("--push", metavar="OWNER/NAME", help="upload to this private hub repository")
    arguments.add_argument(
        "--allow-public", action="store_true", help="with --push: also to a public repository"
    )
    arguments.add_argument(
        "--replace-others", action="store_true", help="with --push: delete files there that are no package's"
    )
    arguments.add_argument("--folder", metavar="FOLDER", help="a packaged folder to upload, instead of a run")
    arguments.add_argument("--check", metavar="FOLDER", help="check a packaged folder and end")
    arguments.add_argument(
        "--rollback", metavar="FOLDER", help="let FOLDER/latest point to what it was before and end"
    )
    args = arguments.parse_args()
    if sum(map(bool, (args.run, args.folder, args.check, args.rollback))) != 1 or (
        args.folder and not args.push
    ):
        raise KitError(
            "expected exactly one of --run, --check, --rollback, or --folder with --push; see --help"
        )

    from kronos.delivery import hub_push, package, registry

    if args.rollback:
        print(f"{args.rollback}/latest is now {registry.rollback(args.rollback, 'latest').after}")
        return
    if args.run:
        config = package.read_run(args.run)
        name = args.name or config.model_paths.exp_name
        folder = package.package_model(config, args.output, name, args.version, args.licence, args.precision)
    else:
        folder = Path(args.check or args.folder)
    print("\n".join([f"{folder}: sound", *(f"  {line}" for line in package.check_package(folder))]))
    if args.push:
        print(f"Uploaded to {hub_push.push(folder, args.push, args.allow_public, args.replace_others)}")


if __name__ == "__main__":
    cli.run(main)
