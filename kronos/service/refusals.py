"""A request that is not answered, and why: every problem in the kit's words.

In: what pydantic found, or a problem of our own. Out: `Refused`, which becomes one `application/problem+json`.
A message shows numbers and names of keys of a request, never its texts. No torch.
"""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from kronos.errors import KitError

MOST_PROBLEMS = 100
"""Problems that one answer lists; the rest is counted."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request."""

    where: str
    expected: str
    found: str
    remedy: str

    def line(self) -> str:
        """The problem in one line."""
        return f"{self.where}: expected {self.expected}, found {self.found}; {self.remedy}"


class Refused(KitError):
    """A request that is not answered: it becomes one `application/problem+json`."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        problems: list[Problem] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """status: of HTTP; code: one word for programs; detail: one line for people."""
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.problems = problems or []
        self.headers = headers or {}

    def tree(self, request_id: str) -> dict[str, Any]:
        """The body of the answer."""
        problems = [vars(problem) for problem in self.problems]
        return {
            "code": self.code,
            "status": self.status,
            "detail": self.detail,
            "problems": problems,
            "request_id": request_id,
        }


def not_json() -> Refused:
    """The refusal of a body that is not JSON."""
    problem = Problem("body", "JSON in UTF-8", "something else", "send application/json")
    return Refused(400, "not_json", problem.line(), [problem])


def refused(problems: list[Problem]) -> Refused:
    """The 422 that lists these problems, at most `MOST_PROBLEMS` of them."""
    detail = problems[0].line()
    if len(problems) > 1:
        detail = f"{len(problems):,} problems; the first: {detail}"
    return Refused(422, "invalid_request", detail, problems[:MOST_PROBLEMS])


def refusal(error: ValidationError) -> Refused:
    """The 400 or 422 that says what pydantic found."""
    found = error.errors(include_url=False)
    if found[0]["type"] == "json_invalid":
        return not_json()
    problems: list[Problem] = []
    for item in found:
        problems += _problems(item)
    return refused(problems)


def raise_all(problems: list[Problem]) -> None:
    """Hand problems through pydantic, which adds where they are."""
    if problems:
        raise PydanticCustomError("kit", "wrong", {"problems": problems})


EXPECTED = {
    "missing": "a value",
    "extra_forbidden": "no such key",
    "finite_number": "a finite number",
    "float_type": "a finite number",
    "float_parsing": "a finite number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "string_type": "a text",
    "list_type": "a list",
    "bool_type": "true or false",
    "model_type": "a group of keys and values",
    "model_attributes_type": "a group of keys and values",
    "dict_type": "a group of keys and values",
    "string_unicode": "a text in UTF-8",
}
BOUNDS = {
    "greater_than": ("above {gt:g}", "raise it"),
    "greater_than_equal": ("at least {ge:g}", "raise it"),
    "less_than": ("below {lt:g}", "lower it"),
    "less_than_equal": ("at most {le:g}", "lower it"),
    "too_short": ("at least {min_length} of them", "send more"),
    "too_long": ("at most {max_length} of them", "send fewer"),
    "string_too_short": ("at least {min_length} character", "give a longer text"),
    "string_too_long": ("at most {max_length} characters", "give a shorter text"),
}
STAMP = "YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, without a time zone"


def _problems(item: Any) -> list[Problem]:
    """What one of pydantic's errors says, in the kit's words."""
    where, kind = _where(item["loc"]), item["type"]
    if kind == "kit":
        inner: list[Problem] = item["ctx"]["problems"]
        return [Problem(_joined(where, p.where), p.expected, p.found, p.remedy) for p in inner]
    found = described(item["input"])
    if kind in BOUNDS:
        expected, remedy = BOUNDS[kind]
        if kind.startswith("too_"):
            found = f"{item['ctx']['actual_length']}"
        return [Problem(where, expected.format(**item["ctx"]), found, remedy)]
    if kind == "missing":
        return [Problem(where, "a value", "none", "add the key")]
    if kind == "extra_forbidden":
        return [Problem(where, "no such key", "one", "remove it; /openapi.json lists the keys")]
    if kind == "string_pattern_mismatch":
        expected = STAMP if "timestamps" in where else "a text without control characters"
        return [Problem(where, expected, found, "write it in this form")]
    expected = EXPECTED.get(kind, "another value")
    inside = item["loc"][-1:] and isinstance(item["loc"][-1], int)
    remedy = "drop or fill the bar" if inside else "correct the value"
    return [Problem(where, expected, found, remedy)]


def _where(loc: tuple[str | int, ...]) -> str:
    """stock_data[3].close[17]"""
    result = ""
    for part in loc:
        if isinstance(part, int):
            result += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_]\w{0,39}", part, re.ASCII):
            result = _joined(result, part)
        else:
            result = _joined(result, "an unknown key")
    return result or "body"


def _joined(where: str, inner: str) -> str:
    if where in ("", "body"):
        return inner
    return f"{where}.{inner}"


def described(value: Any) -> str:
    """What a value is, without repeating a text of the caller's."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= 10**12:
        return "a larger whole number" if value > 0 else "a smaller whole number"
    if isinstance(value, int | float):
        return f"{value}"
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "a group of keys and values"


# -- its form ------------------------------------------------------------------------------------------------
class ProblemTree(BaseModel):
    """`Problem` as JSON."""

    where: str
    expected: str
    found: str
    remedy: str


class ProblemAnswer(BaseModel):
    """Every answer that is none: `application/problem+json`."""

    code: str
    status: int
    detail: str
    problems: list[ProblemTree]
    request_id: str
