"""Parts of history by date, the same for all tickers: train, then validation, then test, with days left out
between.

In: the trading days, and the parts' shares, lengths or last days (`DataConfig`). Out: `Splits`, with a
printable account of the boundaries. NumPy only. Why by date and with an embargo: a label that ends inside a
later part has seen it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronos.config import PART_DAYS, DataConfig, part_problems
from kronos.errors import KitError


@dataclass(frozen=True)
class Part:
    """A range of trading days, as inclusive positions in the store's `sessions`."""

    name: str
    first: int
    last: int
    whole: bool = False
    """True: every bar of a window lies in the part. False: its predicted bars do, and the lookback may begin
    before it.
    """

    def __len__(self) -> int:
        return max(0, self.last - self.first + 1)

    def dates(self, sessions: NDArray[np.datetime64]) -> tuple[str, str]:
        """First and last day of the part as YYYY-MM-DD, from the store's sessions (D,)."""
        return str(sessions[self.first].astype("datetime64[D]")), str(
            sessions[self.last].astype("datetime64[D]")
        )


@dataclass(frozen=True)
class Splits:
    """The parts of a store, oldest first, and the trading days between two of them."""

    train: Part
    validation: Part
    test: Part | None
    embargo: int

    @property
    def parts(self) -> tuple[Part, ...]:
        """Training, validation and, where there is one, test."""
        return (self.train, self.validation) + ((self.test,) if self.test else ())

    def describe(self, sessions: NDArray[np.datetime64]) -> str:
        """A line per part: dates, trading days; and what lies between and after them."""
        lines = []
        for part in self.parts:
            first, last = part.dates(sessions)
            lines.append(f"{part.name:<10} {first} to {last}  {len(part):>7,} trading days")
        if self.validation.first <= self.train.last:
            return "\n".join(
                [*lines, "every day trains: validation lies inside the training part and chooses nothing"]
            )
        left_over = len(sessions) - 1 - self.parts[-1].last
        unused = f"; {left_over:,} at the end unused" if left_over else ""
        lines.append(f"{self.embargo:,} trading days left out between two parts{unused}")
        return "\n".join(lines)


def split_sessions(n_sessions: int, train: float, val: float, test: float, embargo: int) -> Splits:
    """Cut `n_sessions` trading days by shares, oldest first; `embargo` days are taken from the start of a
    later part.

    A training window lies wholly in its part, so that its last label + embargo < the first validation label,
    counted in trading days. test 0: no test part. Raises KitError when a part that was asked for has no day.
    """
    ends = [round(n_sessions * share) for share in (train, train + val, train + val + test)]
    parts = [Part("train", 0, ends[0] - 1, whole=True), Part("validation", ends[0] + embargo, ends[1] - 1)]
    if test > 0:
        parts.append(Part("test", ends[1] + embargo, ends[2] - 1))
    for part, key in zip(parts, ("train_ratio", "val_ratio", "test_ratio"), strict=False):
        if not len(part):
            raise KitError(
                f"{part.name} part: expected at least one trading day, found none in {n_sessions:,} trading days with shares "
                f"{train:g} / {val:g} / {test:g} and an embargo of {embargo:,}; raise data.{key}, lower data.embargo or bring "
                "a longer history"
            )
    return Splits(parts[0], parts[1], parts[2] if test > 0 else None, embargo)


def split_store(data: DataConfig, sessions: NDArray[np.datetime64], embargo: int) -> Splits:
    """The parts of a store with these trading days, (D,) datetime64[s], as the settings say.

    Raises KitError when the settings contradict each other or a part that was asked for has no day.
    """
    problems = part_problems(data)
    if problems:
        raise KitError("; ".join(problems))
    if data.parts_by_days:
        found = _split_by_days(data, sessions, embargo)
    else:
        assert data.train_ratio is not None and data.val_ratio is not None and data.test_ratio is not None
        found = split_sessions(len(sessions), data.train_ratio, data.val_ratio, data.test_ratio, embargo)
    return _all_days(found, len(sessions) - 1) if data.all_days else found


def _all_days(splits: Splits, last: int) -> Splits:
    """Every day trains. The newest days, as many as validated before, are looked at, too: they choose
    nothing.
    """
    newest = Part("validation", max(0, last + 1 - len(splits.validation)), last)
    return Splits(Part("train", 0, last, whole=True), newest, None, splits.embargo)


def _split_by_days(data: DataConfig, sessions: NDArray[np.datetime64], embargo: int) -> Splits:
    """The parts from the newest day back; the embargo lies before a later part, whose length is as set."""
    last = len(sessions) - 1
    test = None
    if data.test_days:
        test = Part("test", last - data.test_days + 1, last)
        validation_end = test.first - embargo - 1
    elif data.validation_until is not None:
        validation_end = _last_session(sessions, data.validation_until)
        rest = Part("test", validation_end + embargo + 1, last)
        if data.test_days is None and len(rest):
            test = rest
    else:
        validation_end = last
    if data.train_until is not None:
        train_end = _last_session(sessions, data.train_until)
    else:
        assert data.validation_days is not None, "`part_problems` asks for one of the two"
        train_end = validation_end - data.validation_days - embargo
    train = Part("train", 0, train_end, whole=True)
    validation = Part("validation", train_end + embargo + 1, validation_end)
    for part in (train, validation):
        if not len(part):
            raise _no_day(part, data, sessions, embargo)
    return Splits(train, validation, test, embargo)


def _last_session(sessions: NDArray[np.datetime64], text: str) -> int:
    """Position of the last session on or before the day (all of it) or the time that a setting names; -1:
    there is none.
    """
    if len(text) == len("YYYY-MM-DD"):
        text += "T23:59:59"
    return int(np.searchsorted(sessions, np.datetime64(text), side="right")) - 1


def _no_day(part: Part, data: DataConfig, sessions: NDArray[np.datetime64], embargo: int) -> KitError:
    settings = [f"data.{name} {getattr(data, name)}" for name in PART_DAYS if getattr(data, name) is not None]
    return KitError(
        f"{part.name} part: expected at least one trading day, found none in {len(sessions):,} trading days, "
        f"{str(sessions[0])[:10]} to {str(sessions[-1])[:10]}, with {', '.join(settings)} and an embargo of {embargo:,}; "
        "change these settings or bring a longer history"
    )
