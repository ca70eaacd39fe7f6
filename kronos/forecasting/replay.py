"""Decoding steps that a GPU repeats by itself: every shape and address stays, so one recording of a step
serves many.

In: a prefilled state with room for H steps, calendar embeddings, keys of the random numbers. Out: tokens of S
paths, (B, S, H). A step of a small network is some hundred kernels of microseconds each; calling them one by
one from Python takes longer than computing them. As a CUDA graph they are one call. The same steps without a
recording (a processor, the tests) are `generate`'s.

Source: CUDA graphs as torch offers them (torch.cuda.CUDAGraph). Letters: B series, S sample paths, H horizon
steps.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from kronos.forecasting.sampling import Sampling, draw
from kronos.networks import Kronos
from kronos.networks.predictor import DecodeState

VISIBLE = 64
"""A recording looks at so many steps of the paths more than the one before it: what is not filled yet is read
in vain.
"""


class ReplayedSteps:
    """The steps of one context and its paths. Reads and writes device memory only; nothing is decided on the
    host.
    """

    def __init__(
        self, model: Kronos, state: DecodeState, time: Tensor, sampling: Sampling, keys: Tensor
    ) -> None:
        """state: with room for all H steps (the last one is advanced in vain); time: (B, H, D); keys: (H, 2,
        B, S).
        """
        self.model, self.state, self.time, self.sampling, self.keys = model, state, time, sampling, keys
        self.tokens = torch.empty_like(keys)
        self.sound = torch.ones(keys.shape[2:], dtype=torch.bool, device=keys.device)
        self.step = torch.zeros(1, dtype=torch.int64, device=keys.device)

    def run(self, visible: int = VISIBLE) -> tuple[Tensor, Tensor, Tensor]:
        """All steps; s1 and s2, (B, S, H) int64, and which paths are sound, (B, S) bool
        (`sampling.Drawn`).
        """
        kind, horizon = self.keys.device.type, len(self.keys)
        # A cast weight that autocast keeps would belong to one recording and be read by the next.
        autocast = torch.autocast(
            kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False
        )
        with autocast:
            for done in range(0, horizon, visible):
                until = min(done + visible, horizon)
                self.state.fix(until)
                repeat(self.one, until - done, self.keys.device)
        s1, s2 = self.tokens.permute(1, 2, 3, 0)
        return s1, s2, self.sound

    def one(self) -> None:
        """One bar of every path."""
        coarse, fine = self.keys.index_select(0, self.step)[0]
        next1, sound1 = draw(self.model.decode_s1_logits(self.state), self.sampling, coarse)
        next2, sound2 = draw(self.model.decode_s2_logits(self.state, next1), self.sampling, fine)
        self.sound.logical_and_(sound1).logical_and_(sound2)
        self.tokens.index_copy_(0, self.step, torch.stack((next1, next2))[None])
        self.model.advance(
            self.state, next1.unsqueeze(-1), next2.unsqueeze(-1), self.time.index_select(1, self.step)
        )
        self.step += 1


def repeat(action: Callable[[], None], times: int, device: torch.device) -> None:
    """Do the same `times` times; on a GPU the first is done as it is, and a recording of it is replayed for
    the others.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            _record_and_replay(action, times)
    else:
        for _ in range(times):
            action()


@functools.cache
def _aside(device: int) -> torch.cuda.Stream:
    """The stream that a device records on, always the same: libraries keep a workspace for each stream they
    have seen.
    """
    return torch.cuda.Stream(device)


def _record_and_replay(action: Callable[[], None], times: int) -> None:
    aside = _aside(torch.cuda.current_device())
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        action()
    torch.cuda.current_stream().wait_stream(aside)
    if times == 1:
        return
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=aside):
        action()
    for _ in range(times - 1):
        graph.replay()
    torch.cuda.synchronize()  # the recording and its memory go now
