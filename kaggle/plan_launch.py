#!/usr/bin/env python3
"""What a launch will do: checks the configuration against this machine and prints `key=value` lines for train_kaggle.sh."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

import torch

from kronos import cli
from kronos.config import Config
from kronos.errors import KitError
from kronos.launch import plan_launch


def main() -> None:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument("--fast-mode", action="store_true", help="shorten every stage to a smoke run")
    arguments.add_argument("--gpus", metavar="N", help="one process for each of N GPUs of every machine, or of `all`")
    arguments.add_argument("--dry-run", action="store_true", help="write nothing")
    args = arguments.parse_args()
    found = torch.cuda.device_count()
    plan = plan_launch(
        args.config,
        args.overrides,
        fast=args.fast_mode,
        wanted=found if args.gpus == "all" else args.gpus and int(args.gpus),
        gpus=found,
        write=not args.dry_run,
    )
    print("\n".join(plan.lines()))
    if args.dry_run:
        print("\n".join(f"plan={line}" for line in cost_lines(plan.config)))


def cost_lines(config: Config) -> list[str]:
    """Memory and time of the run on this machine, estimated and not probed, so that a dry run stays quick."""
    from kronos.planning.devices import find_device
    from kronos.planning.plan import describe, make_plan

    try:
        return describe(make_plan(config, find_device("auto", config), probing=False))
    except KitError as error:
        return [f"No plan of memory and time: {error}"]


if __name__ == "__main__":
    cli.run(main)
