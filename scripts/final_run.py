#!/usr/bin/env python3
"""Train a complete run's stages once more on every day up to the last, each for its chosen number of steps,
into RUN/final.

    python scripts/final_run.py --config configs/kaggle.yaml

The same command goes on with an interrupted one. `experiment.final: true` (or --set experiment.final=true)
makes the submission use these networks, with the decision of the ones that were chosen. Several processes:
`accelerate launch kaggle/train_stage.py --stage S --config RUN/final/pipeline_config.json` after --plan,
stage by stage.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> int:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument(
        "--plan", action="store_true", help="write RUN/final/pipeline_config.json and stop"
    )
    args = arguments.parse_args()
    cli.setup_logging()

    from kronos import configfile, final
    from kronos.data.store import BarStore
    from kronos.training.stages import run_stage

    config = configfile.load(args.config, args.overrides)
    path = final.plan(config)
    print(f"final run: {path}")
    own = configfile.load(path)
    if args.plan:
        return 0
    store = BarStore.open(own.data.store, verify=True)
    for stage in final.stages_of(own):
        if run_stage(own, stage, store) != "complete":
            print(f"stopped in the {stage} stage; the same command goes on from there")
            return cli.EXIT_INTERRUPTED
    print(final.of_run(config)[1])
    return 0


if __name__ == "__main__":
    cli.run(main)
