"""Dates: nothing scored was trained on, nothing that calibrates reaches into the test."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_store

from kronos.errors import KitError
from kronos.evaluation.origins import Boundary, boundary_of, latest, on_open_days, plan_timeline
from kronos.evaluation.significance import MIN_EFFECTIVE, DateBootstrap


@settings(max_examples=300, deadline=None)
@given(
    sessions=st.integers(30, 800),
    train=st.floats(0, 0.9),
    embargo=st.integers(0, 30),
    horizon=st.integers(1, 30),
    origins=st.integers(1, 60),
    every=st.none() | st.integers(1, 40),
    share=st.floats(0, 0.9),
)
def test_blocks_never_overlap(
    sessions: int,
    train: float,
    embargo: int,
    horizon: int,
    origins: int,
    every: int | None,
    share: float,
) -> None:
    """A label that ends inside a later block has seen it: train + horizon < calibrate, calibrate + horizon <
    test.
    """
    boundary = Boundary(int(train * sessions), embargo)
    try:
        found = plan_timeline(
            sessions,
            boundary,
            horizon,
            origins=origins,
            every=every,
            calibration_share=share,
            history=5,
        )
    except KitError:
        assert boundary.first + horizon >= sessions or horizon + 5 >= sessions
        return
    assert len(found.test) and found.test[-1] + horizon < sessions, "the label is known"
    assert (np.diff(found.test) == found.stride).all()
    assert min([found.test[0], *found.calibrate[:1]]) > boundary.train_end + embargo, (
        "not trained on, no label overlaps"
    )
    if len(found.calibrate):
        assert found.calibrate[-1] + horizon < found.test[0]
        assert (np.diff(found.calibrate) > 0).all()
        assert DateBootstrap(tuple(found.calibrate.tolist()), horizon).effective >= MIN_EFFECTIVE, (
            "fewer dates are luck"
        )
    if every:
        assert found.stride == every
    else:
        assert len(found.test) <= origins
    assert {found.part_of(int(s)) for s in found.test} <= {"unseen", "validation"}


def summary_of(digest: str, **data: Any) -> dict[str, Any]:
    ratios = {"train_ratio": 0.6, "val_ratio": 0.2, "test_ratio": 0.0, "predict_window": 2, "embargo": None}
    return {
        "data_digest": digest,
        "train_end": "2020-02-23",
        "train_end_session": 53,
        "config": {"data": ratios | data},
    }


def test_the_boundary_is_the_runs(tmp_path: Path) -> None:
    """The summary counts in trading days of its own data; of other data only the date still means the
    same.
    """
    store = tiny_store(tmp_path / "store", days=90)
    own = boundary_of(store, summary_of(store.digest))
    assert (own.train_end, own.first, own.validation_end) == (53, 56, 71)
    other = boundary_of(store, summary_of("other", embargo=7))
    assert (other.train_end, other.first, other.validation_end) == (53, 61, None)
    assert boundary_of(store, None).first == 0
    days = {
        "train_ratio": None,
        "val_ratio": None,
        "test_ratio": None,
        "validation_days": 15,
        "test_days": 20,
    }
    parts = boundary_of(store, summary_of(store.digest, **days))
    assert (parts.train_end, parts.validation_end, parts.test_first) == (53, 67, 70)
    both = latest([own, other])
    assert (both.first, both.validation_end) == (61, 71), (
        "dates that any of the models was trained on are left out for all"
    )


def test_part_of_a_date() -> None:
    """A label that reaches into the days which chose the checkpoint is no test of it."""
    found = plan_timeline(
        200, Boundary(99, 5, validation_end=149), 5, origins=200, every=1, calibration_share=0
    )
    parts = {int(s): found.part_of(int(s)) for s in found.test}
    assert (min(parts), parts[148], parts[149]) == (105, "validation", "unseen")
    assert found.excluded == {
        "in training, or before its end": 100,
        "embargo after training": 5,
        "too little history": 0,
        "close not known yet": 5,
    }


def test_no_date_left_is_an_error() -> None:
    """An empty backtest must not print a verdict."""
    with pytest.raises(KitError, match="found none after 96 days of training"):
        plan_timeline(100, Boundary(90, 5), 5, origins=3)


def test_a_quick_backtest_calibrates_on_enough_dates() -> None:
    """Two or three dates far apart would be saved as a calibration, and every submission would follow their
    luck.
    """
    few = plan_timeline(2500, Boundary(1500, 30), 30, origins=4)
    assert (
        len(few.calibrate) == MIN_EFFECTIVE
        and len(few.test) == 4
        and "calibration on 6 dates" in few.notes[0]
    )
    many = plan_timeline(2500, Boundary(1500, 30), 30, origins=20)
    assert (np.diff(many.calibrate) == many.stride).all() and not many.notes


def test_default_dates_do_not_overlap_while_there_is_room() -> None:
    """40 dates 26 days apart, 30 days ahead, are 20 observations and cost as much as 40."""
    found = plan_timeline(2500, Boundary(1300, 30), 30, origins=60)
    assert found.stride == 30 and "would overlap" in found.notes[0]
    crowded = plan_timeline(200, Boundary(99, 5), 30, origins=40, calibration_share=0)
    assert crowded.stride == (200 - 1 - 30 - 105) // (MIN_EFFECTIVE - 1), (
        "no room for six dates apart: closer ones"
    )
    asked = plan_timeline(2500, Boundary(1300, 30), 30, origins=60, every=4)
    assert asked.stride == 4, "the user's distance is kept"


def test_default_dates_lie_in_the_test_part() -> None:
    """Dates that chose the checkpoint flatter it; a test part that nothing else uses is there to be used."""
    found = plan_timeline(2500, Boundary(999, 30, validation_end=1279, test_first=1310), 30, origins=40)
    assert min(found.calibrate[0], found.test[0]) >= 1310
    assert {found.part_of(int(s)) for s in [*found.calibrate, *found.test]} == {"unseen"}
    assert found.excluded["validation, which chose the checkpoint"] == 1310 - 1030
    small = plan_timeline(2500, Boundary(999, 30, validation_end=2349, test_first=2380), 30, origins=40)
    assert small.test[0] < 2380 and "fewer than 6 dates" in small.notes[0], "a test part without room is said"


def test_dates_lie_on_days_that_every_market_is_open() -> None:
    """Keeps out: dates on Sundays only, on which shares beside coins are never asked."""
    week = np.arange(400) % 7 < 5
    plain = plan_timeline(400, Boundary(99, 7), 7, origins=20, every=7)
    moved = on_open_days(plain, week)
    assert len(moved.test) >= len(plain.test) - 1 and week[moved.test].all() and week[moved.calibrate].all()
    assert moved.test.min() >= plain.test.min() and (plain.test.max() - moved.test.max()) < 3
    assert "every market is open" in moved.notes[-1]
    assert on_open_days(plain, np.ones(400, bool)) is plain
    nowhere = on_open_days(plain, np.zeros(400, bool))
    assert (
        np.array_equal(nowhere.test, plain.test) and "no session is one of every market" in nowhere.notes[-1]
    )
    late = np.arange(400) < 50
    with pytest.raises(KitError, match="every market of the data is open"):
        on_open_days(plain, late)
