"""Which window comes when: pure functions of (seed, position), so that resuming is arithmetic and not memory.

In: the number of windows (or of windows per ticker), batch shape, seed. Out: for a step, micro-batch and
rank, the windows to read. Memory does not depend on the number of windows. NumPy only.
Source: Feistel networks (Luby and Rackoff 1988) on any domain (Black and Rogaway 2002); the mixer is
splitmix64's.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
ROUNDS = 8  # even, so that the halves end in their own places; with 6 the 24 orders of 4 windows were 16 sigma from uniform
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUND_SALTS = np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)


def permutation(
    positions: NDArray[np.integer], n: int | IntArray, seed: int | NDArray[np.uint64]
) -> IntArray:
    """Where a permutation of 0..n-1, chosen by `seed`, sends each position; the whole is never built.

    positions: (P,) in [0, n). n and seed: one for all, or one per position (P,). Returns (P,) int64 in [0,
    n).
    """
    value = np.array(positions, dtype=np.int64)
    sizes = np.broadcast_to(np.asarray(n, dtype=np.int64), value.shape)
    seeds = np.broadcast_to(seed if isinstance(seed, np.ndarray) else np.uint64(seed & _MASK), value.shape)
    if ((value < 0) | (value >= sizes)).any():
        raise ValueError("permutation: a position is outside [0, n)")
    outside = np.arange(len(value))
    while len(outside):  # walk the cycle until it is back inside
        value[outside] = _feistel(value[outside], sizes[outside], seeds[outside])
        outside = outside[value[outside] >= sizes[outside]]
    return value


def mix(seed: int | NDArray[np.integer], salt: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """A seed of its own for (seed, salt); either may be an array. Returns uint64 of the broadcast shape, at
    least (1,).
    """
    a, b = (
        np.atleast_1d(np.asarray(x if isinstance(x, np.ndarray) else x & _MASK)).astype(np.uint64)
        for x in (seed, salt)
    )
    return _scramble(_scramble(a + np.uint64(_GOLDEN)) ^ (b * np.uint64(0xD1342543DE82EF95) + np.uint64(1)))


def _feistel(value: IntArray, sizes: IntArray, seeds: NDArray[np.uint64]) -> IntArray:
    """A permutation of 0..a*b-1 with a = ceil(sqrt(n)), b = ceil(n / a): hardly larger than n, so cycle walks
    are short.

    The halves are numbers modulo a and b and each round adds to one a hash of the other: invertible, whatever
    the hash.
    """
    a = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    b = (sizes.astype(np.uint64) + a - np.uint64(1)) // a
    keys = _scramble(seeds + _ROUND_SALTS[:, None])
    one, other = np.divmod(value.astype(np.uint64), b)
    for key in keys:
        one, other, a, b = (
            other,
            (one + (_scramble(key ^ other) >> np.uint64(2))) % a,
            b,
            a,
        )  # 62 bits: the sum cannot wrap
    return (one * b + other).astype(np.int64)


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def spread(
    first: int, count: int, cell: int, cells: int, batch_size: int
) -> tuple[IntArray, NDArray[np.bool_]]:
    """The share of one cell (a micro-batch of a rank) in the positions first..first+count-1, padded to
    `batch_size`.

    Sample j goes to cell j mod `cells`, so that real samples differ by at most one between cells and every
    cell has a batch. Padding repeats the positions of the step. Returns positions (batch_size,) and real
    (batch_size,) bool.
    """
    sample = np.arange(batch_size, dtype=np.int64) * cells + cell
    return first + sample % count, sample < count


@dataclass(frozen=True)
class BatchPlan:
    """The windows of a training stage: an endless stream of positions, cut into epochs, steps and
    micro-batches.

    Position g is window `permutation(g mod n, n, seed of pass g div n)`: every window once per pass, whatever
    the epoch. An epoch is `samples_per_epoch` positions (at most n; None: n) and the next one continues where
    it ended. Optimiser step k of an epoch takes G = batch_size x accumulation x processes positions of it;
    the last takes what is left, spread evenly over micro-batches and ranks and padded with entries that are
    not real. So does every step where `step_windows` is set: G is that number, at most the product.

    ticker_windows None: every window is equally likely. Given (K,) counts, which must add up to `windows` in
    index order: tickers are equally likely. The stream then goes in rounds of the tickers that have windows,
    each once per round in a permuted order; the q-th visit to a ticker of m windows takes window
    `permutation(q mod m, m, ...)` of its pass q div m. "No repeats" then means: no ticker twice in a round,
    no window of a ticker twice before all of its windows were used. An
    epoch is still as many draws as there are windows: short histories repeat within it and long ones are not
    exhausted.
    """

    windows: int
    batch_size: int
    accumulation: int = 1
    processes: int = 1
    epochs: int = 1
    seed: int = 0
    samples_per_epoch: int | None = None
    max_steps: int | None = None
    ticker_windows: IntArray | None = None
    step_windows: int | None = None

    def __post_init__(self) -> None:
        if min(self.windows, self.batch_size, self.accumulation, self.processes, self.epochs) < 1:
            raise ValueError(
                f"BatchPlan: windows, batch, accumulation, processes and epochs must be at least 1: {self}"
            )
        if self.step_windows is not None and self.step_windows > self._room:
            raise ValueError(
                f"BatchPlan: {self.step_windows} windows need more room than {self._room}: {self}"
            )
        if self.ticker_windows is not None and self.ticker_windows.sum() != self.windows:
            raise ValueError("BatchPlan: ticker_windows must add up to windows")

    @property
    def epoch_samples(self) -> int:
        """Real samples of an epoch, over all processes."""
        return min(self.windows, self.samples_per_epoch or self.windows)

    @property
    def step_samples(self) -> int:
        """G: positions that a full optimiser step takes, over all processes."""
        return self.step_windows or self._room

    @property
    def _room(self) -> int:
        """Entries of a step's micro-batches, over all processes."""
        return self.batch_size * self.accumulation * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return -(-self.epoch_samples // self.step_samples)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the stage: epochs x steps_per_epoch, at most max_steps."""
        steps = self.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def step_range(self, step: int) -> tuple[int, int]:
        """First stream position of an optimiser step, and its number of real samples over all processes."""
        epoch, within = divmod(step, self.steps_per_epoch)
        done = within * self.step_samples
        return epoch * self.epoch_samples + done, min(self.step_samples, self.epoch_samples - done)

    def positions(self, step: int, micro: int, rank: int) -> tuple[IntArray, NDArray[np.bool_]]:
        """Stream positions (batch_size,) of a micro-batch of a rank, and which of them are real (the others
        are padding).
        """
        first, count = self.step_range(step)
        cells = self.accumulation * self.processes
        return spread(first, count, micro * self.processes + rank, cells, self.batch_size)

    def windows_at(self, positions: IntArray) -> IntArray:
        """Positions of the stream (P,) -> indices of windows (P,), in [0, windows)."""
        if self.ticker_windows is not None:
            return self._equal_tickers(positions)
        turn, place = np.divmod(positions, self.windows)
        return permutation(place, self.windows, mix(self.seed, turn))

    @cached_property
    def _tickers(self) -> tuple[IntArray, IntArray]:
        """Counts and first window of the tickers that have any."""
        assert self.ticker_windows is not None
        first = np.cumsum(self.ticker_windows) - self.ticker_windows
        present = self.ticker_windows > 0
        return self.ticker_windows[present].astype(np.int64), first[present].astype(np.int64)

    def _equal_tickers(self, positions: IntArray) -> IntArray:
        counts, first = self._tickers
        visit, place = np.divmod(positions, len(counts))
        ticker = permutation(place, len(counts), mix(self.seed, visit))
        turn, nth = np.divmod(visit, counts[ticker])
        own_seed = mix(mix(self.seed + 1, ticker).astype(np.uint64), turn)
        return first[ticker] + permutation(nth, counts[ticker], own_seed)


@dataclass(frozen=True)
class ScoringPlan:
    """A fixed list of windows, once each: all of them, or `samples` evenly spread ones, in index order.

    Same interface as `BatchPlan`; a step is one batch per process, and every process has the same number of
    batches.
    """

    windows: int
    batch_size: int
    processes: int = 1
    samples: int | None = None
    accumulation: int = 1

    @property
    def chosen(self) -> int:
        """Number of windows on the list."""
        return min(self.windows, self.samples or self.windows)

    @property
    def total_steps(self) -> int:
        """Batches of each process."""
        return -(-self.chosen // (self.batch_size * self.processes))

    def positions(self, step: int, micro: int, rank: int) -> tuple[IntArray, NDArray[np.bool_]]:
        """List positions (batch_size,) of a rank's batch, and which of them are real."""
        whole = self.batch_size * self.processes
        first = step * whole
        return spread(
            first,
            min(whole, self.chosen - first),
            micro * self.processes + rank,
            self.processes,
            self.batch_size,
        )

    def windows_at(self, positions: IntArray) -> IntArray:
        """The middle window of each of `chosen` equal stretches of the index."""
        return (2 * positions + 1) * self.windows // (2 * self.chosen)
