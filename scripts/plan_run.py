#!/usr/bin/env python3
"""Before a run: parameters, memory by part, the largest batch that fits, time per epoch and stage.

Memory is computed from the networks. Time is measured with two steps of each stage when the device is this
machine's (auto), and estimated from a table of devices otherwise. Ends with 2 and one line when the
configured batch cannot fit.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> None:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument(
        "--device",
        default="auto",
        help="auto (this machine), T4, P100, V100, RTX3090, RTX4090, A6000, A100 (40 GB) or H100; default: auto",
    )
    arguments.add_argument(
        "--num-gpus", type=int, metavar="N", help="processes, one per GPU; default: distributed.num_processes"
    )
    arguments.add_argument(
        "--no-probe", action="store_true", help="run no steps, also on this machine: estimate the time"
    )
    args = arguments.parse_args()

    from kronos import configfile
    from kronos.planning.devices import find_device
    from kronos.planning.plan import check_fit, describe, make_plan

    overrides = [*args.overrides]
    if args.num_gpus is not None:
        overrides.append(f"distributed.num_processes={args.num_gpus}")
    config = configfile.load(args.config, overrides)
    plan = make_plan(config, find_device(args.device, config), probing=not args.no_probe)
    print("\n".join(describe(plan)))
    check_fit(plan)


if __name__ == "__main__":
    cli.run(main)
