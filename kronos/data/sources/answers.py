"""Reading what services answer: JSON, also wrapped in a call or an assignment of JavaScript, which is cut off
and never run.
"""

import re
from typing import Any

from kronos import records
from kronos.data.sources.fetch import Refused

_WRAPPED = re.compile(
    rb"^\s*(?:/\*.*?\*/\s*)?(?:(?:var\s+)?[\w.$]+\s*=\s*\(?|[\w.$]+\s*\()\s*(?=[\[{n])", re.DOTALL
)
"""What stands before the JSON in `callback([...]);`, `var name=([...]);` and `var name={...}`."""
_TAIL = re.compile(rb"[\s);]*(?:/\*[^*]*\*/\s*)?$")
"""What may stand after it."""


def json_of(body: bytes) -> Any:
    """The JSON tree of an answer, whole and of a bounded depth. Raises `Refused` where it is none."""
    text = body.strip()
    opening = _WRAPPED.match(text)
    if opening is not None:
        text = text[opening.end() :]
        tail = _TAIL.search(text)
        text = text if tail is None else text[: tail.start()]
    try:
        return records.parse(text, "the answer")
    except records.WrongShape as error:
        raise Refused(
            f"no JSON, or only a part of it ({str(error).removeprefix('the answer: ')[:80]})", again=True
        ) from error


def rows_of(body: bytes, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """The answer as a list of records that have `keys`, at least one. Raises `Refused`."""
    tree = json_of(body)
    if tree is None or tree == []:
        raise Refused("the service knows no bars of this symbol")
    if not isinstance(tree, list) or not all(isinstance(row, dict) for row in tree):
        raise Refused("expected a list of bars, found something else")
    missing = [key for key in keys if key not in tree[0]]
    if missing:
        raise Refused(f"expected bars with {', '.join(keys)}, found none named {missing[0]}")
    return tree
