"""The one reader of everything that the kit wrote as JSON and reads back: summaries, manifests,
configurations, decisions.

In: a file, and the shape that it should have (a dataclass, or any type below). Out: a value of that shape, or
a KitError that names the file, the field, what was expected, what was found and what to do. Standard library
only: it also runs on a GPU machine that has no parser.

Shapes are dataclasses, `int`, `float`, `str`, `bool`, `None`, `list[X]`, `tuple[X, ...]`, `dict[str, X]`,
unions of these, `Literal`, `Path`, and `Any` for a part that is free. `Annotated[int, "> 0"]` adds a range
(see `in_range`). A field of a dataclass that has a default may be missing; any other may not. A number is
never NaN or infinite.
"""

import json
import math
import re
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from kronos.errors import KitError

LARGEST = 64 * 2**20
"""Bytes of the largest file that is read: a store's manifest with 50,000 tickers has about 5 MiB."""
DEEPEST = 100
"""Levels of brackets inside each other."""
SHOWN = 60
"""Characters of a wrong value that a message shows."""

Shape = TypeVar("Shape")

_RANGE = re.compile(r"(?P<sign>>=?) (?P<least>\S+)|(?P<low>\S+) to (?P<below>below )?(?P<high>\S+)")


class WrongShape(KitError):
    """A file that is there but does not say what it should. The message is the user's line."""


def read(path: str | Path, shape: type[Shape], *, remedy: str = "", strict: bool = False) -> Shape:
    """The value of shape `shape` in the JSON file `path`.

    remedy: what the user can do, added to the message. strict: refuse keys that the shape does not have; else
    they are ignored. Raises WrongShape (a KitError) for another shape, FileNotFoundError when there is no
    file.
    """
    return check(read_json(path, remedy=remedy), shape, str(path), remedy=remedy, strict=strict)


def read_json(path: str | Path, *, remedy: str = "", largest: int = LARGEST) -> Any:
    """The JSON tree in a file of at most `largest` bytes. Raises WrongShape, or FileNotFoundError when there
    is no file.
    """
    path = Path(path)
    if path.is_dir():
        raise WrongShape(f"{path}: expected a JSON file, found a folder{_then(remedy)}")
    size = path.stat().st_size
    if size > largest:
        raise WrongShape(f"{path}: expected at most {largest:,} bytes of JSON, found {size:,}{_then(remedy)}")
    return parse(path.read_bytes(), str(path), remedy=remedy)


def parse(text: bytes | str, where: str, *, remedy: str = "") -> Any:
    """The JSON tree in `text`. Raises WrongShape where it is no JSON, too deep, or holds NaN or infinity."""
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        tree = json.loads(decoded, parse_constant=_refuse_constant)
    except RecursionError:
        raise WrongShape(
            f"{where}: expected at most {DEEPEST} levels of brackets, found more{_then(remedy)}"
        ) from None
    except UnicodeDecodeError:
        raise WrongShape(f"{where}: expected JSON in UTF-8, found other bytes{_then(remedy)}") from None
    except ValueError as error:  # also a number of thousands of digits
        raise WrongShape(
            f"{where}: expected JSON, found a file that is not: {error}{_then(remedy)}"
        ) from None
    if _depth_exceeds(tree, DEEPEST):
        raise WrongShape(f"{where}: expected at most {DEEPEST} levels of brackets, found more{_then(remedy)}")
    return tree


def check(tree: Any, shape: type[Shape], where: str, *, remedy: str = "", strict: bool = False) -> Shape:
    """`tree` as a value of `shape`. where: the file (or another place) that messages name. Raises
    WrongShape.
    """
    try:
        return cast(Shape, _value(tree, shape, "", strict))
    except _Mismatch as wrong:
        field = f" {wrong.field}:" if wrong.field else ""
        raise WrongShape(
            f"{where}:{field} expected {wrong.expected}, found {wrong.found}{_then(remedy)}"
        ) from None


def in_range(value: float, allowed: str) -> bool:
    """Whether a number lies in a range written as '> 0', '>= 0', '0 to 1' or '0 to below 1'."""
    match = _RANGE.fullmatch(allowed)
    if match is None:
        raise ValueError(f"a range is written as '> 0', '>= 0', '0 to 1' or '0 to below 1', not {allowed!r}")
    if match["sign"] == ">":
        return value > float(match["least"])
    if match["sign"] == ">=":
        return value >= float(match["least"])
    below = value < float(match["high"]) if match["below"] else value <= float(match["high"])
    return float(match["low"]) <= value and below


def is_range(text: Any) -> bool:
    """Whether the text beside a type in `Annotated` is a range."""
    return isinstance(text, str) and _RANGE.fullmatch(text) is not None


# -- inside --------------------------------------------------------------------------------------------------
class _Mismatch(Exception):
    def __init__(self, field: str, expected: str, found: str) -> None:
        super().__init__(field)
        self.field, self.expected, self.found = field, expected, found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _then(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""


def _depth_exceeds(tree: Any, limit: int) -> bool:
    level = [tree]
    for _ in range(limit):
        level = [child for node in level for child in _groups(node)]
        if not level:
            return False
    return True


def _groups(node: Any) -> list[Any]:
    """What lies in a node and can itself hold something."""
    inside = node.values() if isinstance(node, dict) else node
    return (
        [child for child in inside if isinstance(child, dict | list)] if isinstance(node, dict | list) else []
    )


def _value(tree: Any, shape: Any, field: str, strict: bool) -> Any:
    if is_dataclass(shape):
        return _record(tree, shape, field, strict)
    origin = get_origin(shape)
    if origin is None:
        return _plain(tree, shape, field)
    return _READERS[origin](tree, shape, field, strict)


def _plain(tree: Any, shape: Any, field: str) -> Any:
    if shape is Any:
        return tree
    if shape is None or shape is type(None):
        return tree if tree is None else _refuse(tree, "nothing (null)", field)
    if shape is float:
        return _number(tree, field)
    if shape is int:
        whole = isinstance(tree, int) and not isinstance(tree, bool)
        return tree if whole else _refuse(tree, "a whole number", field)
    if shape is Path:
        return Path(tree) if isinstance(tree, str) else _refuse(tree, "a path", field)
    names = {str: "a text", bool: "true or false", list: "a list", dict: "a group of keys and values"}
    if isinstance(tree, shape):
        return tree
    return _refuse(tree, names.get(shape, shape.__name__), field)


def _number(tree: Any, field: str) -> float:
    if isinstance(tree, bool) or not isinstance(tree, int | float):
        _refuse(tree, "a number", field)
    try:
        number = float(tree)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse(tree, "a finite number", field)
    return number


def _record(tree: Any, shape: Any, field: str, strict: bool) -> Any:
    if not isinstance(tree, dict):
        _refuse(tree, "a group of keys and values", field)
    hints = get_type_hints(shape, include_extras=True)
    known: dict[str, Field[Any]] = {item.name: item for item in fields(shape) if item.init}
    if strict:
        for name in sorted(set(tree) - set(known)):
            raise _Mismatch(
                _joined(field, name), "no such key", "one; another version of the kit may have written it"
            )
    values = {}
    for name, item in known.items():
        if name in tree:
            values[name] = _value(tree[name], hints[name], _joined(field, name), strict)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise _Mismatch(_joined(field, name), "a value", "none")
    return shape(**values)


def _list(tree: Any, shape: Any, field: str, strict: bool) -> list[Any]:
    if not isinstance(tree, list):
        _refuse(tree, "a list", field)
    (item,) = get_args(shape)
    if item is str and set(map(type, tree)) <= {str}:  # the names of 50,000 tickers
        return list(tree)
    return [_value(value, item, f"{field}[{place}]", strict) for place, value in enumerate(tree)]


def _tuple(tree: Any, shape: Any, field: str, strict: bool) -> tuple[Any, ...]:
    if not isinstance(tree, list | tuple):
        _refuse(tree, "a list", field)
    items = get_args(shape)
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(tree)
    if len(items) != len(tree):
        _refuse(tree, f"a list of {len(items)}", field)
    places = enumerate(zip(tree, items, strict=True))
    return tuple(_value(value, item, f"{field}[{place}]", strict) for place, (value, item) in places)


def _dict(tree: Any, shape: Any, field: str, strict: bool) -> dict[str, Any]:
    if not isinstance(tree, dict):
        _refuse(tree, "a group of keys and values", field)
    _, item = get_args(shape)
    return {name: _value(value, item, _joined(field, name), strict) for name, value in tree.items()}


def _annotated(tree: Any, shape: Any, field: str, strict: bool) -> Any:
    kind, *notes = get_args(shape)
    value = _value(tree, kind, field, strict)
    for allowed in filter(is_range, notes):
        if value is not None and not in_range(value, allowed):
            _refuse(tree, allowed, field)
    return value


def _literal(tree: Any, shape: Any, field: str, strict: bool) -> Any:
    allowed = get_args(shape)
    same = [word for word in allowed if word == tree and type(word) is type(tree)]
    return same[0] if same else _refuse(tree, " or ".join(map(repr, allowed)), field)


def _union(tree: Any, shape: Any, field: str, strict: bool) -> Any:
    expected, deepest = [], None
    for branch in get_args(shape):
        try:
            return _value(tree, branch, field, strict)
        except _Mismatch as wrong:
            expected.append(wrong.expected)
            if wrong.field != field:
                deepest = wrong  # the branch's kind was right, something inside it was not
    if deepest is not None:
        raise deepest
    return _refuse(tree, " or ".join(dict.fromkeys(expected)), field)


_READERS: dict[Any, Callable[[Any, Any, str, bool], Any]] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    Annotated: _annotated,
    Literal: _literal,
    Union: _union,
    types.UnionType: _union,
}


def _joined(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _refuse(tree: Any, expected: str, field: str) -> Any:
    text = repr(tree)
    shown = text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
    raise _Mismatch(field, expected, shown)
