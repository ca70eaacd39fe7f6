#!/usr/bin/env python3
"""Write the configuration of a Kaggle notebook session from what is attached to it: data, weights, an earlier
output.

python kaggle/session.py --config configs/kaggle.yaml

It reads /kaggle/input and writes /kaggle/working/session.json.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli


def main() -> None:
    arguments = cli.parser(__doc__ or "")
    arguments.add_argument(
        "--input", default="/kaggle/input", metavar="DIR", help="attached inputs (default: /kaggle/input)"
    )
    arguments.add_argument(
        "--output", default="/kaggle/working", metavar="DIR", help="kept results (default: /kaggle/working)"
    )
    arguments.add_argument(
        "--hours", type=float, default=10.5, help="of training, below the session's 12 (default: 10.5)"
    )
    args = arguments.parse_args()
    cli.setup_logging()

    import torch

    from kronos.delivery.session import write_session

    gpus = torch.cuda.device_count()
    write_session(args.input, args.output, args.config, args.overrides, hours=args.hours, gpus=gpus)


if __name__ == "__main__":
    cli.run(main)
