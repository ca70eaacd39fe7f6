#!/usr/bin/env python3
"""Make the two pictures of README from a run whose backtest is done: docs/images/report.png and forecast.svg.

python scripts/readme_pictures.py runs/demo

report.png is the first screen of RUN/backtest/report.html; it needs chromium and the package playwright.
forecast.svg is the first example of RUN/backtest/report.json: what was known, the band, what happened.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import files, records
from kronos.errors import KitError
from kronos.evaluation.report_plots import plot_example
from kronos.page import draw

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
LARGEST = 150_000
"""Bytes of a picture."""


def picture_of_the_report(page: Path, target: Path) -> None:
    """The first screen of a report as PNG. Raises KitError without chromium or playwright."""
    browser = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        browser = None
    if browser is None:
        raise KitError("expected chromium and the package playwright, found not both; install them")
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        sheet = opened.new_page(viewport={"width": 1240, "height": 820})
        sheet.goto(page.resolve().as_uri())
        target.parent.mkdir(parents=True, exist_ok=True)
        sheet.screenshot(path=target)
        opened.close()
    Image.open(target).quantize(64).save(target, optimize=True)


def picture_of_a_forecast(tree: dict[str, Any], target: Path) -> None:
    """The first example of a report's tree as SVG. Raises KitError where the backtest has none."""
    if not tree["examples"]:
        raise KitError("expected a backtest with examples, found one without; run it with a network")
    example = tree["examples"][0]
    svg = draw(lambda axes: plot_example(axes, example), size=(7.2, 3.2))
    files.write_text(target, str(svg).replace("<svg ", '<svg width="720" height="320" ', 1))


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("run", type=Path, help="folder of a run with a backtest")
    folder = options.parse_args().run / "backtest"
    try:
        if not (folder / "report.json").is_file():
            raise KitError(
                f"{folder}: expected a backtest, found none; run train_kaggle.sh --config configs/demo.yaml"
            )
        picture_of_the_report(folder / "report.html", FOLDER / "report.png")
        picture_of_a_forecast(records.read_json(folder / "report.json"), FOLDER / "forecast.svg")
    except KitError as error:
        print(error, file=sys.stderr)
        return 2
    for path in (FOLDER / "report.png", FOLDER / "forecast.svg"):
        size = path.stat().st_size
        print(f"{path}: {size:,} bytes")
        if size > LARGEST:
            print(f"{path}: expected at most {LARGEST:,} bytes, found {size:,}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
