"""Sampling the tokens that follow: the fast way with a cache, and the slow clear way that it is compared
with.

In: tokens of the context (B, T), calendar stamps of context and future. Out: tokens of S paths, (B, S, H),
and which paths are sound (`sampling.Drawn`).
Source: Kronos paper (arXiv 2508.02739), section 3.3, autoregressive inference; the published generation loop.

Both ways make the same steps (`Step`) and differ in what they compute them from. `decode` runs the context
once per series, whatever the number of paths, and keeps its keys and values; it is exact while the window
does not slide. `decode_reference` runs the whole window again for every token of every path.

Letters: B series, T context steps, S sample paths, H horizon steps.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kronos.forecasting.context import check_fits
from kronos.forecasting.replay import ReplayedSteps
from kronos.forecasting.sampling import COARSE, FINE, Sampling, draw, draw_keys, horizon_keys
from kronos.networks import Kronos
from kronos.networks.predictor import DecodeState


class Pass(NamedTuple):
    """Paths of every series that are decoded together."""

    first: int
    paths: int


class Paths(NamedTuple):
    """Tokens of S paths of B series."""

    s1: Tensor
    """(B, S, H) int64"""
    s2: Tensor
    """(B, S, H) int64"""
    sound: Tensor
    """(B, S) bool: every logit that a path was drawn from was finite; the other paths mean nothing"""


class Step(NamedTuple):
    """One bar of every path."""

    s1: Tensor
    """(B, S) int64"""
    s2: Tensor
    """(B, S) int64"""
    s1_logits: Tensor
    """(B, S, V1), before temperature and filters"""
    s2_logits: Tensor
    """(B, S, V2), given s1"""
    sound: Tensor
    """(B, S) bool: all these logits were finite"""


@torch.inference_mode()
def generate(
    model: Kronos,
    s1: Tensor,
    s2: Tensor,
    stamp: Tensor,
    future_stamp: Tensor,
    *,
    sampling: Sampling,
    series: Tensor,
    max_context: int,
    paths_at_once: int | None = None,
    replayed: bool = False,
    integers: bool = False,
) -> Paths:
    """Sample S paths of H bars for every series, with a key/value cache.

    s1, s2: (B, T) int64 tokens of the context; stamp: (B, T, 5), future_stamp: (B, H, 5) calendar fields.
    series: (B,) int64, names each series' random numbers: equal keys give equal paths. max_context: most
    tokens that the network sees at once. paths_at_once: most paths whose cache is held at a time, None: all;
    the context runs once whatever it is. replayed: in steps that a GPU repeats by itself (`replay`); the same
    but for rounding. integers: as in `Kronos.prefill`.

    Raises KitError when the window would have to slide, T + H - 1 > max_context, before any
    work.
    """
    check_fits(s1.shape[1], future_stamp.shape[1], max_context)
    horizon, passes = future_stamp.shape[1], _passes(sampling.sample_count, paths_at_once)
    room = horizon if replayed else horizon - 1
    with _evaluating(model):
        time = model.time_emb(future_stamp)
        state = model.prefill(
            *(s1, s2, stamp),
            paths=passes[0].paths,
            steps=room,
            decode_rope=sampling.decode_rope,
            integers=integers,
        )
        found = []
        for first, count in passes:
            if first:
                state.restart(count, room)
            given = (model, state, time, sampling, horizon_keys(sampling.seed, series, count, horizon, first))
            found.append(Paths(*ReplayedSteps(*given).run()) if replayed else _collect(_steps(*given)))
    return _joined(found)


@torch.inference_mode()
def generate_reference(
    model: Kronos,
    s1: Tensor,
    s2: Tensor,
    stamp: Tensor,
    future_stamp: Tensor,
    *,
    sampling: Sampling,
    series: Tensor,
    max_context: int,
    paths_at_once: int | None = None,
) -> Paths:
    """`generate` by the slow clear loop. A window longer than max_context slides: its oldest tokens are left
    out.
    """
    given = (s1, s2, stamp, future_stamp)
    settings: dict[str, Any] = {"sampling": sampling, "series": series, "max_context": max_context}
    with _evaluating(model):
        passes = _passes(sampling.sample_count, paths_at_once)
        return _joined([_collect(decode_reference(model, *given, **settings, part=part)) for part in passes])


@torch.inference_mode()
def decode(
    model: Kronos,
    s1: Tensor,
    s2: Tensor,
    stamp: Tensor,
    future_stamp: Tensor,
    *,
    sampling: Sampling,
    series: Tensor,
) -> Iterator[Step]:
    """The steps of `generate`, H of them, all paths at once."""
    paths, horizon = sampling.sample_count, future_stamp.shape[1]
    state = model.prefill(s1, s2, stamp, paths=paths, steps=horizon - 1, decode_rope=sampling.decode_rope)
    keys = horizon_keys(sampling.seed, series, paths, horizon)
    yield from _steps(model, state, model.time_emb(future_stamp), sampling, keys)


def _steps(
    model: Kronos, state: DecodeState, time: Tensor, sampling: Sampling, keys: Tensor
) -> Iterator[Step]:
    """The steps of the paths that `state` has room for. time: (B, H, D) calendar embeddings; keys: (H, 2, B,
    S).
    """
    for step, (coarse, fine) in enumerate(keys):
        s1_logits = model.decode_s1_logits(state)
        next1, sound1 = draw(s1_logits, sampling, coarse)
        s2_logits = model.decode_s2_logits(state, next1)
        next2, sound2 = draw(s2_logits, sampling, fine)
        yield Step(next1, next2, s1_logits, s2_logits, sound1 & sound2)
        if step + 1 < len(keys):
            model.advance(state, next1.unsqueeze(-1), next2.unsqueeze(-1), time[:, step : step + 1])


@torch.inference_mode()
def decode_reference(
    model: Kronos,
    s1: Tensor,
    s2: Tensor,
    stamp: Tensor,
    future_stamp: Tensor,
    *,
    sampling: Sampling,
    series: Tensor,
    max_context: int,
    part: Pass | None = None,
) -> Iterator[Step]:
    """The steps of `generate_reference`, H of them, of all paths or of a part."""
    first, paths = part or Pass(0, sampling.sample_count)
    shape = (len(s1), paths)
    s1, s2 = s1.repeat_interleave(paths, 0), s2.repeat_interleave(paths, 0)
    stamps = torch.cat((stamp, future_stamp), dim=1).repeat_interleave(paths, 0)
    for step in range(future_stamp.shape[1]):
        end = s1.shape[1]
        window = slice(max(end - max_context, 0), end)
        h = model.context(s1[:, window], s2[:, window], stamps[:, window])
        s1_logits = model.s1_logits(h[:, -1]).unflatten(0, shape)
        next1, sound1 = draw(
            s1_logits, sampling, draw_keys(sampling.seed, series, paths, step, COARSE, first)
        )
        # What followed every position of the window: its tokens but for the first, and the one just drawn.
        s1 = torch.cat((s1, next1.view(-1, 1)), dim=1)
        queries = s1[:, window.start + 1 :]
        s2_logits = model.last_s2_logits(h, queries, sampling.decode_rope).unflatten(0, shape)
        next2, sound2 = draw(s2_logits, sampling, draw_keys(sampling.seed, series, paths, step, FINE, first))
        s2 = torch.cat((s2, next2.view(-1, 1)), dim=1)
        yield Step(next1, next2, s1_logits, s2_logits, sound1 & sound2)


def _passes(total: int, at_once: int | None) -> list[Pass]:
    most = min(total, at_once or total)
    return [Pass(first, min(most, total - first)) for first in range(0, total, most)]


def _joined(passes: list[Paths]) -> Paths:
    return Paths(*(torch.cat(parts, dim=1) for parts in zip(*passes, strict=True)))


@contextlib.contextmanager
def _evaluating(model: Kronos) -> Iterator[None]:
    """Evaluation mode for a while: with dropout on, a forecast would differ from call to call."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _collect(steps: Iterator[Step]) -> Paths:
    taken = [(step.s1, step.s2, step.sound) for step in steps]
    s1, s2, sound = (torch.stack(parts, dim=-1) for parts in zip(*taken, strict=True))
    return Paths(s1, s2, sound.all(dim=-1))
