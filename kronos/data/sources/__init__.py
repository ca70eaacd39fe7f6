"""Where prices come from when they are not files at hand: see docs/sources.md.

`gather` fills data/NAME from a source; `protocol` says what a source is; `fetch` asks web services; one
module per source.
"""

from kronos.data.sources.fetch import Refused
from kronos.data.sources.gather import check, check_current, gather
from kronos.data.sources.protocol import Asked, BaseSource, Facts

__all__ = ["Asked", "BaseSource", "Facts", "Refused", "check", "check_current", "gather"]
