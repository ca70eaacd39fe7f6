#!/usr/bin/env python3
"""Read, check and store the price files: the first line of the recipe.

    python kaggle/prepare_data.py --config configs/kaggle.yaml --set data.data_path=train.csv
    python kaggle/prepare_data.py --config configs/csi300.yaml --data-source qlib

Fills data.data_path from a source where there is one, reads it, cleans it by data.cleaning, writes
data.store. Does nothing when the store is up to date.
"""

import logging
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli, configfile
from kronos.data.prepare import prepare
from kronos.data.quick import quick_checks, refuse_warnings
from kronos.data.sources import flags


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up, then leave
    parser = cli.parser(__doc__ or "")
    what = "also run the data checks and write them, with plots, as one page (default: data_report.html in the run's folder)"
    parser.add_argument("--report", nargs="?", const="", metavar="PAGE", help=what)
    parser.add_argument("--strict", action="store_true", help="stop when one of the quick checks warns")
    flags.add_flags(parser)
    arguments = parser.parse_args()
    cli.setup_logging()
    overrides = flags.with_flags(
        arguments.config, arguments.overrides, arguments.data_source, arguments.skip_data_process
    )
    config = configfile.load(arguments.config, overrides)
    store = prepare(config)
    results = quick_checks(store, config)
    for result in results:
        logging.info("%-4s %s", result.status, result.line)
    if arguments.strict:
        refuse_warnings(results)
    if arguments.report is not None:
        from kronos.data.data_report import write_report  # matplotlib takes a second to load

        logging.info(
            "report: %s", write_report(store, config, arguments.report or config.run_dir / "data_report.html")
        )


if __name__ == "__main__":
    cli.run(main)
