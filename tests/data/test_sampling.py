"""The order of windows: a permutation for every length, the same for any division of the work, resumable
anywhere.
"""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.data.batch_plan import BatchPlan, ScoringPlan, mix, permutation

SEEDS = st.integers(-(2**63), 2**64 - 1)


def order(n: int, seed: int) -> np.ndarray:
    return permutation(np.arange(n), n, seed)


def epoch_of(plan: BatchPlan | ScoringPlan, first_step: int, steps: int) -> list[int]:
    """The real windows of some steps, over all micro-batches and ranks, as a sorted list."""
    windows: list[int] = []
    for step in range(first_step, first_step + steps):
        for micro in range(plan.accumulation):
            for rank in range(plan.processes):
                positions, real = plan.positions(step, micro, rank)
                assert positions.shape == real.shape == (plan.batch_size,)
                windows += plan.windows_at(positions)[real].tolist()
    return sorted(windows)


# -- the permutation -----------------------------------------------------------------------------------------
def test_a_permutation_for_every_length() -> None:
    """An index map that collapses for some lengths: windows drawn twice, others never."""
    for n in [*range(1, 700), 1023, 1024, 1025, 4096, 4097, 65_535, 65_537, 262_145]:
        assert np.array_equal(np.sort(order(n, n * 7919)), np.arange(n)), n


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 20_000), seed=SEEDS)
def test_a_permutation_for_every_seed(n: int, seed: int) -> None:
    assert np.array_equal(np.sort(order(n, seed)), np.arange(n))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(10**6, 2**52), seed=SEEDS, start=st.floats(0, 1))
def test_large_lengths_stay_inside_without_repeats(n: int, seed: int, start: float) -> None:
    """21 million rows and far beyond: no overflow, and no table of n entries."""
    positions = int(start * (n - 5000)) + np.arange(5000)
    images = permutation(positions, n, seed)
    assert images.min() >= 0 and images.max() < n and len(np.unique(images)) == 5000


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 10**9), min_size=1, max_size=30), seed=st.integers(0, 2**32))
def test_many_lengths_at_once_are_the_single_ones(sizes: list[int], seed: int) -> None:
    """The vectorised form for tickers of different length against one call each."""
    n = np.array(sizes)
    places = np.random.default_rng(seed).integers(0, n)
    seeds = mix(seed, np.arange(len(n)))
    expected = [int(permutation(places[i : i + 1], sizes[i], seeds[i : i + 1])[0]) for i in range(len(n))]
    assert permutation(places, n, seeds).tolist() == expected


@pytest.mark.parametrize("n", [2, 3, 5, 16, 100])
def test_every_place_is_equally_likely(n: int) -> None:
    """Chi-square over 20,000 seeds, first and last position: a weak mixer shows some windows first in every
    run.
    """
    seeds = mix(np.arange(20_000), 0)
    for place in (0, n - 1):
        counts = np.bincount(permutation(np.full(len(seeds), place), n, seeds), minlength=n)
        chi_square = ((counts - len(seeds) / n) ** 2 / (len(seeds) / n)).sum()
        assert chi_square < (n - 1) + 5 * np.sqrt(2 * (n - 1)) + 5


@pytest.mark.parametrize("n", [3, 4])
def test_every_order_is_equally_likely(n: int) -> None:
    """Too few rounds: some orders of a few windows never come."""
    seeds = mix(np.arange(30_000), 5)
    orders = Counter(
        zip(*(permutation(np.full(len(seeds), place), n, seeds).tolist() for place in range(n)), strict=True)
    )
    expected = len(seeds) / math.factorial(n)
    assert len(orders) == math.factorial(n)
    assert max(abs(count - expected) for count in orders.values()) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("n", [97, 1000, 100_003])
def test_neighbours_do_not_stay_together(n: int) -> None:
    """Windows next to each other overlap in all but one bar: a batch of neighbours is one window many
    times.
    """
    images = order(n, 11)
    assert abs(np.corrcoef(np.arange(n), images)[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 4 / np.sqrt(n)
    assert (np.abs(np.diff(images)) == 1).mean() < 2 / n + 4 * np.sqrt(2 / n / n) + 0.02


def test_seeds_and_passes_differ() -> None:
    """The same order in every pass, or in two runs with neighbouring seeds."""
    plan = BatchPlan(windows=5000, batch_size=1, seed=3)
    first, second = plan.windows_at(np.arange(5000)), plan.windows_at(np.arange(5000, 10_000))
    other = BatchPlan(windows=5000, batch_size=1, seed=4).windows_at(np.arange(5000))
    assert (first == second).mean() < 0.01 and (first == other).mean() < 0.01
    assert len(np.unique(mix(7, np.arange(100_000)))) == len(np.unique(mix(np.arange(100_000), 7))) == 100_000


def test_the_order_is_frozen() -> None:
    """A checkpoint holds a step, not an order: another order after an update would repeat some windows and
    skip others.
    """
    assert order(12, 42).tolist() == FROZEN
    plan = BatchPlan(windows=1000, batch_size=4, seed=42)
    assert plan.windows_at(np.arange(996, 1004)).tolist() == FROZEN_PASS
    equal = BatchPlan(windows=1000, batch_size=4, seed=42, ticker_windows=np.array([700, 0, 299, 1]))
    assert equal.windows_at(np.arange(8)).tolist() == FROZEN_EQUAL


FROZEN = [9, 0, 11, 3, 1, 8, 7, 10, 4, 5, 6, 2]
FROZEN_PASS = [400, 597, 766, 748, 494, 245, 370, 210]
FROZEN_EQUAL = [999, 579, 917, 5, 813, 999, 17, 999]


def test_a_position_outside_is_refused() -> None:
    """Cycle walking from outside the range would give a window that another position has too."""
    for wrong in (-1, 10):
        with pytest.raises(ValueError, match="outside"):
            permutation(np.array([wrong]), 10, 0)


# -- the plan ------------------------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 300), batch=st.integers(1, 9), accumulation=st.integers(1, 4), processes=st.sampled_from([1, 2, 3, 8]),
    seed=SEEDS, epochs=st.integers(1, 3),
)  # fmt: skip
def test_an_epoch_is_every_window_once(
    n: int, batch: int, accumulation: int, processes: int, seed: int, epochs: int
) -> None:
    """Dropped tails, repeats from padding, and ranks that draw the same windows."""
    plan = BatchPlan(n, batch, accumulation, processes, epochs, seed)
    assert plan.total_steps == epochs * plan.steps_per_epoch
    for epoch in range(epochs):
        assert epoch_of(plan, epoch * plan.steps_per_epoch, plan.steps_per_epoch) == list(range(n))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 200),
    cap=st.integers(1, 300),
    batch=st.integers(1, 8),
    processes=st.sampled_from([1, 2, 8]),
    seed=SEEDS,
)
def test_capped_epochs_go_on_through_the_data(
    n: int, cap: int, batch: int, processes: int, seed: int
) -> None:
    """samples_per_epoch that shows the same first windows in every epoch."""
    plan = BatchPlan(n, batch, 1, processes, epochs=5, seed=seed, samples_per_epoch=cap)
    stream = plan.windows_at(np.arange(5 * plan.epoch_samples)).tolist()
    for epoch in range(5):
        seen = epoch_of(plan, epoch * plan.steps_per_epoch, plan.steps_per_epoch)
        assert seen == sorted(stream[epoch * plan.epoch_samples : (epoch + 1) * plan.epoch_samples])
    assert plan.epoch_samples == min(n, cap)
    assert (
        max(Counter(stream).values()) - min(Counter({w: 0 for w in range(n)} | Counter(stream)).values()) <= 1
    )


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300), batch=st.sampled_from([1, 2, 4]), accumulation=st.sampled_from([1, 2]), seed=SEEDS
)
def test_a_step_is_the_same_for_any_number_of_processes(
    n: int, batch: int, accumulation: int, seed: int
) -> None:
    """With the same global batch, 1, 2 and 8 processes take the same windows in every optimiser step."""
    plans = [BatchPlan(n, batch * 8 // p, accumulation, p, 1, seed) for p in (1, 2, 8)]
    assert len({plan.total_steps for plan in plans}) == 1
    for step in range(plans[0].total_steps):
        one, two, eight = (epoch_of(plan, step, 1) for plan in plans)
        assert one == two == eight


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 120),
    batch=st.integers(1, 6),
    accumulation=st.integers(1, 4),
    processes=st.integers(1, 8),
    seed=SEEDS,
)
def test_a_ragged_step_is_spread_evenly(
    n: int, batch: int, accumulation: int, processes: int, seed: int
) -> None:
    """A rank without a batch hangs the others in their all-reduce; padding that counts changes the loss."""
    plan = BatchPlan(n, batch, accumulation, processes, 1, seed)
    last = plan.total_steps - 1
    reals = [plan.positions(last, m, r)[1] for m in range(accumulation) for r in range(processes)]
    counts = [int(real.sum()) for real in reals]
    assert sum(counts) == plan.step_range(last)[1] == n - last * plan.step_samples
    assert max(counts) - min(counts) <= 1
    padded = np.concatenate(
        [plan.positions(last, m, r)[0] for m in range(accumulation) for r in range(processes)]
    )
    assert padded.min() >= last * plan.step_samples and padded.max() < n


def test_steps_are_capped() -> None:
    """max_steps ends a stage early and never prolongs it."""
    assert BatchPlan(100, 10, epochs=3).total_steps == 30
    assert BatchPlan(100, 10, epochs=3, max_steps=7).total_steps == 7
    assert BatchPlan(100, 10, epochs=3, max_steps=70).total_steps == 30
    assert BatchPlan(101, 10, 2, 2, epochs=3).steps_per_epoch == 3


@pytest.mark.parametrize("wrong", [{"windows": 0}, {"batch_size": 0}, {"ticker_windows": np.array([3, 3])}])
def test_an_impossible_plan_is_refused(wrong: dict) -> None:
    """A plan over no windows would divide by zero in a worker, hours later for validation."""
    with pytest.raises(ValueError, match="BatchPlan"):
        BatchPlan(**{"windows": 10, "batch_size": 2, **wrong})


# -- equal tickers -------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    seed=SEEDS,
    rounds=st.integers(1, 100),
)
def test_equal_weighting_goes_in_rounds(counts: list[int], seed: int, rounds: int) -> None:
    """Long histories crowd out young companies, or a ticker's windows repeat before all were used."""
    windows = np.array(counts)
    plan = BatchPlan(int(windows.sum()), 4, seed=seed, ticker_windows=windows)
    present = np.flatnonzero(windows)
    drawn = plan.windows_at(np.arange(rounds * len(present)))
    ticker = np.searchsorted(np.cumsum(windows), drawn, side="right")
    for one_round in ticker.reshape(rounds, -1):
        assert sorted(one_round) == present.tolist()
    for k in present:
        uses = Counter(drawn[ticker == k].tolist())
        assert max(uses.values()) - (min(uses.values()) if len(uses) == windows[k] else 0) <= 1


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 5), processes=st.sampled_from([1, 2, 8]), seed=SEEDS)
def test_equal_weighting_is_a_function_of_the_position(batch: int, processes: int, seed: int) -> None:
    """The same stream for any division of the work, here too."""
    windows = np.array([50, 0, 3, 17, 1])
    plan = BatchPlan(71, batch, 1, processes, epochs=2, seed=seed, ticker_windows=windows)
    stream = plan.windows_at(np.arange(142)).tolist()
    assert epoch_of(plan, 0, plan.steps_per_epoch) == sorted(stream[:71])
    assert epoch_of(plan, plan.steps_per_epoch, plan.steps_per_epoch) == sorted(stream[71:])


# -- validation ----------------------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 500),
    samples=st.none() | st.integers(1, 600),
    batch=st.integers(1, 9),
    processes=st.integers(1, 8),
)
def test_scoring_list_is_fixed(n: int, samples: int | None, batch: int, processes: int) -> None:
    """A mean that depends on batch size or process count, because of the sampler's padding."""
    plan = ScoringPlan(n, batch, processes, samples)
    scored = epoch_of(plan, 0, plan.total_steps)
    assert scored == plan.windows_at(np.arange(plan.chosen)).tolist()
    assert len(set(scored)) == min(n, samples or n) and scored[0] >= 0 and scored[-1] < n
    assert np.ptp(np.diff(scored)) <= 1 if len(scored) > 1 else True


def test_a_step_of_given_windows_is_padded_not_longer() -> None:
    """Keeps out a step of nine windows where eight were asked of three processes."""
    plan = BatchPlan(windows=22, batch_size=3, processes=3, step_windows=8)
    assert plan.step_samples == 8 and plan.steps_per_epoch == 3
    taken = [plan.positions(0, 0, rank) for rank in range(3)]
    assert [int(real.sum()) for _, real in taken] == [3, 3, 2]
    assert sorted(int(p) for positions, real in taken for p in positions[real]) == list(range(8))
    with pytest.raises(ValueError, match="8 windows need more room than 6"):
        BatchPlan(windows=22, batch_size=2, processes=3, step_windows=8)
