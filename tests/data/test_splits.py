"""Parts by date: no label of an earlier part reaches a later one, and nothing is empty in silence."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from panels import WEEKDAYS, random_series, store_in_memory

from kronos.config import DataConfig
from kronos.data.splits import Splits, split_sessions, split_store
from kronos.data.windows import WindowIndex
from kronos.errors import KitError

SHARES = st.tuples(st.floats(0.3, 0.8), st.floats(0.05, 0.3), st.floats(0, 0.2)).filter(lambda s: sum(s) <= 1)


def split_or_skip(sessions: int, shares: tuple[float, float, float], embargo: int) -> Splits:
    try:
        return split_sessions(sessions, *shares, embargo)
    except KitError:
        assume(False)
        raise


@settings(max_examples=200, deadline=None)
@given(sessions=st.integers(10, 16_000), shares=SHARES, embargo=st.integers(0, 60))
def test_parts_are_apart(sessions: int, shares: tuple[float, float, float], embargo: int) -> None:
    """A boundary off by one puts a day into two parts, or into the embargo."""
    splits = split_or_skip(sessions, shares, embargo)
    assert splits.train.first == 0 and splits.parts[-1].last < sessions
    assert all(len(part) for part in splits.parts)
    for earlier, later in itertools.pairwise(splits.parts):
        assert later.first - earlier.last == embargo + 1
    assert (splits.test is None) == (shares[2] == 0)


def test_known_boundaries() -> None:
    """Shares are of trading days, oldest first, and the embargo is taken from the later part."""
    splits = split_sessions(1000, 0.7, 0.2, 0.1, 30)
    assert [(p.first, p.last) for p in splits.parts] == [(0, 699), (730, 899), (930, 999)]
    assert split_sessions(1000, 0.7, 0.2, 0.0, 1).test is None
    assert split_sessions(1000, 0.9, 0.1, 0.0, 1).validation.last == 999


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shares=SHARES, predict=st.integers(1, 5), more=st.integers(0, 10))
def test_no_label_overlap(seed: int, shares: tuple[float, float, float], predict: int, more: int) -> None:
    """Last training label + embargo < first validation label, counted in sessions, whatever gaps the tickers
    have.
    """
    store = store_in_memory(random_series(np.random.default_rng(seed), 8, 200))
    embargo, lookback = predict + more, 6
    splits = split_or_skip(len(store.sessions), shares, embargo)
    labels = []
    for part in splits.parts:
        index = WindowIndex.build(store, lookback, predict, part)
        rows = index.rows(np.arange(len(index)))
        dated = np.stack([store.session[rows + step] for step in range(lookback + predict)])
        if part.whole:
            assert (dated <= part.last).all() and (dated >= part.first).all()
        labels.append((dated[lookback:].min(initial=1 << 30), dated[lookback:].max(initial=-1)))
    for (_, last), (first, _) in itertools.pairwise(labels):
        assert last + embargo < first


@pytest.mark.parametrize(
    ("shares", "embargo", "named"),
    [((0.9, 0.1, 0.0), 10, "validation"), ((0.8, 0.15, 0.05), 5, "test"), ((0.001, 0.5, 0.2), 1, "train")],
)
def test_a_part_without_a_day_refuses(shares: tuple[float, float, float], embargo: int, named: str) -> None:
    """An empty part that trains for hours and then has no best model."""
    with pytest.raises(KitError, match=rf"^{named} part: expected at least one trading day.*raise data\."):
        split_sessions(100, *shares, embargo)


def test_boundaries_are_printed() -> None:
    """A user must see which dates the model has learnt from."""
    sessions = WEEKDAYS[:1000].astype("datetime64[s]")
    text = split_sessions(1000, 0.7, 0.2, 0.05, 30).describe(sessions)
    assert text.splitlines() == [
        "train      2015-01-01 to 2017-09-06      700 trading days",
        "validation 2017-10-19 to 2018-06-13      170 trading days",
        "test       2018-07-26 to 2018-08-22       20 trading days",
        "30 trading days left out between two parts; 50 at the end unused",
    ]


# -- by days and dates ---------------------------------------------------------------------------------------
DATES = WEEKDAYS[:1000].astype("datetime64[s]")


def by_days(**data: Any) -> DataConfig:
    return DataConfig(train_ratio=None, val_ratio=None, test_ratio=None, **data)


def edges(splits: Splits) -> list[tuple[int, int]]:
    return [(part.first, part.last) for part in splits.parts]


@settings(max_examples=200, deadline=None)
@given(
    days=st.integers(10, 1000),
    validation=st.integers(1, 300),
    test=st.integers(0, 300),
    embargo=st.integers(0, 60),
)
def test_parts_by_days_are_apart(days: int, validation: int, test: int, embargo: int) -> None:
    """The newest days are the test part, whole; training ends where an embargo before validation says."""
    try:
        splits = split_store(by_days(validation_days=validation, test_days=test), DATES[:days], embargo)
    except KitError:
        assert days - validation - embargo - (test + embargo if test else 0) < 1
        return
    assert splits.train.first == 0 and splits.parts[-1].last == days - 1
    assert len(splits.validation) == validation and (len(splits.test) if splits.test else 0) == test
    for earlier, later in itertools.pairwise(splits.parts):
        assert later.first - earlier.last == embargo + 1


def test_parts_by_dates() -> None:
    """A day off puts what a user calls the test into validation. 2016-12-31 is no trading day: the one before
    it counts.
    """
    day = {
        text: int(np.searchsorted(DATES, np.datetime64(text, "s"))) for text in ("2016-12-30", "2017-12-29")
    }
    both = by_days(train_until="2016-12-31", validation_until="2017-12-29")
    cut = [(0, day["2016-12-30"]), (day["2016-12-30"] + 6, day["2017-12-29"]), (day["2017-12-29"] + 6, 999)]
    assert edges(split_store(both, DATES, 5)) == cut
    assert edges(split_store(replace(both, test_days=0), DATES, 5)) == cut[:2], (
        "the days after validation are left out"
    )
    assert edges(split_store(by_days(train_until="2016-12-31"), DATES, 5)) == [cut[0], (cut[1][0], 999)]
    mixed = by_days(train_until="2016-12-31", test_days=100)
    assert edges(split_store(mixed, DATES, 5)) == [cut[0], (cut[1][0], 894), (900, 999)]
    minutes = np.datetime64("2020-01-01T09:30:00") + np.arange(500) * np.timedelta64(60, "s")
    timed = by_days(train_until="2020-01-01T10:29:00", validation_until="2020-01-01T11:29:00")
    assert edges(split_store(timed, minutes, 1)) == [(0, 59), (61, 119), (121, 499)]


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (
            by_days(validation_days=900, test_days=200),
            r"^train part: .* none in 1,000 trading days, 2015-01-01 to 2018-10-31, with",
        ),
        (by_days(train_until="2014-01-01"), r"^train part: .* data.train_until 2014-01-01"),
        (
            by_days(train_until="2018-01-01", validation_until="2017-01-01"),
            "^validation part: expected at least one trading day",
        ),
        (by_days(train_until="2017-01-01", validation_days=5), "found both"),
        (DataConfig(validation_days=5), r"data\.train_ratio and data\.validation_days: .*found both"),
    ],
)
def test_parts_by_days_that_cannot_be_are_refused(data: DataConfig, named: str) -> None:
    """One line that names the setting, before anything is trained."""
    with pytest.raises(KitError, match=named) as refused:
        split_store(data, DATES, 10)
    assert "\n" not in str(refused.value)
