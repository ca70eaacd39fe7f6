"""The typed reader: the right shape comes back, any other is one line that names file and field."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronos import records
from kronos.errors import KitError
from kronos.records import WrongShape, in_range


@dataclass(frozen=True)
class Part:
    steps: Annotated[int, ">= 0"]
    loss: float | None = None


@dataclass(frozen=True)
class Whole:
    status: Literal["complete", "running"]
    parts: list[Part]
    digests: dict[str, str] = field(default_factory=dict)
    span: tuple[int, int] = (0, 0)
    free: Any = None


RIGHT = {
    "status": "complete",
    "parts": [{"steps": 3, "loss": 0.5}],
    "digests": {"a": "b"},
    "span": [1, 2],
    "free": [None, {}],
}


def _file(folder: Path, text: str) -> Path:
    path = folder / "summary.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_right_shape_comes_back(tmp_path: Path) -> None:
    found = records.read(_file(tmp_path, json.dumps(RIGHT)), Whole)
    assert found == Whole("complete", [Part(3, 0.5)], {"a": "b"}, (1, 2), [None, {}])


def test_a_missing_field_takes_its_default(tmp_path: Path) -> None:
    found = records.read(_file(tmp_path, '{"status": "running", "parts": [{"steps": 0}], "new": 1}'), Whole)
    assert found == Whole("running", [Part(0)])


@pytest.mark.parametrize(
    ("text", "field_name", "expected"),
    [
        ("[]", "", "a group of keys and values"),
        ("null", "", "a group of keys and values"),
        ("3", "", "a group of keys and values"),
        ('{"parts": []}', "status", "a value"),
        ('{"status": "done", "parts": []}', "status", "'complete' or 'running'"),
        ('{"status": "running", "parts": {}}', "parts", "a list"),
        ('{"status": "running", "parts": [3]}', "parts[0]", "a group of keys and values"),
        ('{"status": "running", "parts": [{"steps": -1}]}', "parts[0].steps", ">= 0"),
        ('{"status": "running", "parts": [{"steps": true}]}', "parts[0].steps", "a whole number"),
        ('{"status": "running", "parts": [{"steps": 1.5}]}', "parts[0].steps", "a whole number"),
        (
            '{"status": "running", "parts": [{"steps": 1, "loss": "x"}]}',
            "parts[0].loss",
            "a number or nothing (null)",
        ),
        ('{"status": "running", "parts": [{"steps": 1, "loss": 1e999}]}', "parts[0].loss", "a finite number"),
        ('{"status": "running", "parts": [], "digests": {"a": 3}}', "digests.a", "a text"),
        ('{"status": "running", "parts": [], "span": [1]}', "span", "a list of 2"),
    ],
)
def test_another_shape_is_one_line(tmp_path: Path, text: str, field_name: str, expected: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(WrongShape) as caught:
        records.read(path, Whole, remedy="train again")
    message = str(caught.value)
    assert message.startswith(f"{path}: {field_name}:" if field_name else f"{path}: expected")
    assert expected in message
    assert message.endswith("; train again")
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"a": NaN}',
        '{"a": -Infinity}',
        "[" * 100_000,
        "[" * 200 + "]" * 200,
        "9" * 10_000,
        "\x00",
        '"\ud800"',
    ],
    ids=["empty", "cut", "nan", "infinity", "deep and cut", "deep", "long number", "nul", "surrogate"],
)
def test_what_is_no_json_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(WrongShape) as caught:
        records.read(path, Whole)
    assert str(caught.value).startswith(f"{path}: expected")
    assert "\n" not in str(caught.value)


def test_other_bytes_and_other_files(tmp_path: Path) -> None:
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe{}")
    with pytest.raises(WrongShape, match="UTF-8"):
        records.read_json(binary)
    with pytest.raises(WrongShape, match="found a folder"):
        records.read_json(tmp_path)
    with pytest.raises(WrongShape, match="at most 3 bytes"):
        records.read_json(binary, largest=3)
    with pytest.raises(FileNotFoundError):
        records.read_json(tmp_path / "none.json")


def test_strict_refuses_a_key_that_the_shape_does_not_have() -> None:
    with pytest.raises(KitError, match=r"here: parts\[0\]\.extra: expected no such key"):
        records.check({"status": "running", "parts": [{"steps": 1, "extra": 2}]}, Whole, "here", strict=True)


def test_ranges() -> None:
    assert in_range(1, "> 0") and not in_range(0, "> 0")
    assert in_range(0, ">= 0") and not in_range(-1e-9, ">= 0")
    assert in_range(1, "0 to 1") and not in_range(1.1, "0 to 1")
    assert in_range(0, "0 to below 1") and not in_range(1, "0 to below 1")
    with pytest.raises(ValueError, match="a range is written as"):
        in_range(1, "between")


KEYS = st.sampled_from(list(RIGHT)) | st.text(max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_tree_is_a_value_or_a_line(tree: Any) -> None:
    try:
        assert isinstance(records.check(tree, Whole, "file"), Whole)
    except WrongShape as error:
        assert str(error).startswith("file:")
