"""The command line of who asks a service from a price file. Standard library only: `--help` waits for nothing."""

import argparse


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows --file, --url and --api-key."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--file", required=True, metavar="FILE", help="CSV or Parquet, or a prepared store")
    made.add_argument("--url", default="http://127.0.0.1:7070", help="of the service")
    made.add_argument(
        "--api-key", default="", metavar="FILE", help="file with the key, where one is asked for"
    )
    return made
