#!/usr/bin/env python3
"""Train one stage: the target of `accelerate launch`. Needs the networks' packages only when --config is a
resolved JSON.
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli, records
from kronos.config import Config, from_dict
from kronos.training.facts import ALL_STAGES
from kronos.training.stages import train


def main() -> int:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument("--stage", required=True, choices=ALL_STAGES)
    args = arguments.parse_args()
    cli.setup_logging()
    if os.environ.get("RANK", "0") != "0":
        logging.disable(logging.INFO)
    return train(read_config(Path(args.config), args.overrides), args.stage)


def read_config(path: Path, overrides: list[str]) -> Config:
    """A resolved configuration as it is; anything else through the checks, which need pydantic and a YAML
    parser.
    """
    if path.suffix == ".json" and path.is_file() and not overrides:
        tree = records.read(path, dict[str, Any])
        paths = tree.get("model_paths")
        if isinstance(paths, dict) and paths.get("base_save_path"):
            return from_dict(tree, str(path))
    from kronos import configfile

    return configfile.load(path, overrides)


if __name__ == "__main__":
    cli.run(main)
