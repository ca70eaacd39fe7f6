#!/usr/bin/env python3
"""How fast series are forecast, beside the loop that re-runs the window for every bar, and beside what the machine could do.

    python scripts/bench_generate.py                           mini, 8 series: 256 + 30 and 400 + 120 steps, 1 and 32 paths
    python scripts/bench_generate.py --many 5000               5,000 series x 256 bars: one forward, P(rise) of the next bar;
                                                               measured on --measured 256 of them and scaled

Prints the ceiling (matrix products, memory), then both ways of computing and the share of the ceiling that the decode loop
reaches, then one JSON line. --precision bf16: as on a GPU. Weights are random: sampling is as
fast with any; the enumeration behind P(rise) is slowest with these, whose probabilities are nearly flat. The re-running loop is
the published one: its window grows to the last step, and every step runs all of it. Steps at the first, middle and last length
are measured, and scaled to all.
"""

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

import numpy as np
import torch

from kronos import cli
from kronos.bars import calendar_stamps
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.generate import generate, generate_reference
from kronos.forecasting.sampling import Sampling
from kronos.networks import Kronos, KronosTokenizer, cost, preset

WINDOW = 4096
"""Longer than any window here: nothing is cut, nothing slides."""
SCENARIOS = ((256, 30), (400, 120))
"""Bars of context, steps."""
AT_ONCE = 64
"""Series of one batch of many."""

Figures = dict[str, float]


def best(action: Callable[[], object], device: str, repeats: int = 3) -> float:
    """Seconds of the fastest of a few calls."""
    wait = torch.cuda.synchronize if device != "cpu" else lambda: None
    found = []
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        action()
        wait()
        found.append(time.perf_counter() - started)
    return min(found)


def ceiling(device: str, kind: torch.dtype) -> Figures:
    """What the machine does at best: matrix products, and reading memory."""
    a, big = torch.randn(2048, 2048, device=device, dtype=kind), torch.ones(50_000_000, device=device)
    products = 2 * 2048**3 / best(lambda: a @ a, device, 8) / 1e9
    return {"gemm_gflops": round(products), "memory_gb_s": round(0.2 / best(lambda: big.sum(), device, 8), 1)}


def inputs(model: Kronos, series: int, context: int, horizon: int, device: str) -> dict[str, torch.Tensor]:
    """Random tokens and daily stamps, as `generate` takes them."""
    days = np.datetime64("2024-01-01T00:00:00") + np.arange(context + horizon) * np.timedelta64(86400, "s")
    stamps = torch.from_numpy(calendar_stamps(days)).to(device).expand(series, -1, -1)
    g = torch.Generator().manual_seed(0)
    bits = (model.config.s1_bits, model.config.s2_bits)
    s1, s2 = (torch.randint(0, 2**b, (series, context), generator=g).to(device) for b in bits)
    keys = torch.arange(series, device=device)
    return {"s1": s1, "s2": s2, "stamp": stamps[:, :context], "future_stamp": stamps[:, context:], "series": keys}


def arrays(given: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Bars, stamps, future stamps and keys, as a forecaster takes them."""
    bars = np.exp(np.random.default_rng(0).normal(3, 0.1, (*given["s1"].shape, 6))).astype(np.float32)
    names = {"stamps": "stamp", "future_stamps": "future_stamp", "series": "series"}
    return {"bars": bars} | {own: given[name].cpu().numpy() for own, name in names.items()}


def rerun_seconds(model: Kronos, series: int, context: int, horizon: int, device: str) -> float:
    """The re-running loop over all steps, from two steps at each of three lengths."""
    each = []
    for length in (context, context + horizon // 2, context + horizon - 2):
        again: dict[str, Any] = {**inputs(model, series, length, 2, device), "sampling": Sampling(), "max_context": WINDOW}
        each.append(best(functools.partial(generate_reference, model, **again), device, 2) / 2)
    return sum(each) / 3 * horizon


def least_seconds(model: Kronos, size: tuple[int, int, int, int], figures: Figures, element: int) -> float:
    """What the decode loop takes at least: weights, context and own keys and values read once a step, or the products.

    size: series, paths, context, steps behind the first.
    """
    c, (series, paths, context, steps) = model.config, size
    parts, token = cost.predictor_parameters(c), cost.cache_bytes_per_token(c, element)
    weights, seen = sum(parts[name] for name in ("blocks", "dependency", "heads")), steps * (steps + 1) // 2
    read = steps * (weights * element + series * context * token) + series * paths * seen * token
    attended = (c.n_layers + 1) * 2 * c.d_model * (steps * context + seen)
    products = 2 * series * paths * (steps * weights + attended)
    return max(read / figures["memory_gb_s"], products / figures["gemm_gflops"]) / 1e9


def compare(
    model: Kronos,
    tokenizer: KronosTokenizer,
    shape: tuple[int, int, int, int],
    device: str,
    figures: Figures,
    kind: torch.dtype,
) -> Figures:
    """Both ways on the same context: seconds of tokens, and arrays to prices. shape: series, bars, steps, paths."""
    series, context, horizon, paths = shape
    given: dict[str, Any] = inputs(model, series, context, horizon, device)
    slow = rerun_seconds(model, series, context, horizon, device)
    tokens, ends, shares = {}, {}, {}
    for count in (1, paths):
        drawn = Sampling(sample_count=count)
        ours: dict[str, Any] = {**given, "sampling": drawn, "max_context": WINDOW}
        tokens[count] = best(functools.partial(generate, model, **ours), device)
        first = best(functools.partial(generate, model, **ours | {"future_stamp": given["future_stamp"][:, :1]}), device)
        least = least_seconds(model, (series, count, context, horizon - 1), figures, kind.itemsize)
        shares[count] = least / (tokens[count] - first)
        autocast = None if kind == torch.float32 else kind
        own = Forecaster(model, tokenizer, device=device, max_context=WINDOW, sampling=drawn, autocast=autocast)
        ends[count] = best(functools.partial(own.forecast, **arrays(given)), device)
    found = {
        "rerun_s": slow,
        "cached_s": tokens[1],
        "ratio": slow / tokens[1],
        "paths_s": tokens[paths],
        "paths_ratio": tokens[paths] / tokens[1],
        "decode_share": shares[1],
        "decode_share_paths": shares[paths],
        "end_to_end_s": ends[1],
        "end_to_end_paths_s": ends[paths],
        "end_to_end_paths_ratio": ends[paths] / ends[1],
    }
    print(
        f"{context} + {horizon} steps, {series} series: re-running {slow:.2f} s, cached {tokens[1]:.3f} s: {found['ratio']:.1f} x"
    )
    print(f"  {paths} paths: {tokens[paths]:.3f} s, {found['paths_ratio']:.1f} x one path")
    print(f"  the decode loop alone reaches {shares[1]:.0%} of the ceiling, with {paths} paths {shares[paths]:.0%}", flush=True)
    print(
        f"  arrays to prices: one path {ends[1]:.3f} s, {paths} paths {ends[paths]:.3f} s, {ends[paths] / ends[1]:.1f} x",
        flush=True,
    )
    return {f"{name}_{context}_{horizon}": round(value, 3) for name, value in found.items()}


def forward_many(model: Kronos, tokenizer: KronosTokenizer, many: int, measured: int, device: str) -> Figures:
    """One forward of many series x 256 bars and the logits of what follows the last bar, in batches; tokens to logits."""
    given = inputs(model, AT_ONCE, 256, 1, device)
    seen = [given[name] for name in ("s1", "s2", "stamp")]

    def forward() -> None:
        for _ in range(-(-measured // AT_ONCE)):
            with torch.inference_mode():
                model.s1_logits(model.prefill(*seen, paths=1, steps=0).hidden)

    seconds = best(forward, device, 1) * many / (-(-measured // AT_ONCE) * AT_ONCE)
    rate = cost.predictor_flops(model.config, tokenizer.config, 257)["blocks"].forward * many / seconds / 1e9
    print(
        f"one forward of {many} series x 256 bars: {seconds:.1f} s, measured on {measured}; its blocks alone: {rate:.0f} GFLOP/s"
    )
    return {f"forward_{many}_s": round(seconds, 1)}


def next_step_many(model: Kronos, tokenizer: KronosTokenizer, many: int, measured: int, device: str) -> Figures:
    """P(rise) of the next bar after 256 of them, arrays to probabilities."""
    given = arrays(inputs(model, measured, 256, 1, device))
    own = Forecaster(model, tokenizer, device=device, max_context=WINDOW)
    seconds = best(lambda: own.next_step(**given), device, 1) * many / measured
    print(f"P(rise) of the next bar of {many} series x 256 bars: {seconds:.1f} s, measured on {measured}", flush=True)
    return {f"next_step_{many}_s": round(seconds, 1)}


def main() -> None:
    options = cli.parser(__doc__ or "")
    options.add_argument("--preset", default="mini")
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the predictor")
    for name, default in {"series": 8, "paths": 32, "many": 0, "measured": 256}.items():
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--scenario", action="append", default=[], metavar="BARS+STEPS", help="instead of the two, e.g. 392+120")
    options.add_argument("--only-many", action="store_true", help="leave out the comparison with the re-running loop")
    given = options.parse_args()
    torch.manual_seed(0)
    bars, tokens = preset(given.preset)
    tokenizer, model = KronosTokenizer(**bars).eval().to(given.device), Kronos(**tokens).eval().to(given.device)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[given.precision]
    figures = ceiling(given.device, kind)
    print(f"{given.preset} on {given.device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"at best {figures['gemm_gflops']} GFLOP/s and {figures['memory_gb_s']} GB/s", flush=True)
    asked = [tuple(map(int, text.split("+"))) for text in given.scenario] or SCENARIOS
    with torch.autocast(given.device, dtype=torch.bfloat16, enabled=kind == torch.bfloat16):
        for context, horizon in () if given.only_many else asked:
            shape = (given.series, context, horizon, given.paths)
            figures |= compare(model, tokenizer, shape, given.device, figures, kind)
        if given.many:
            figures |= forward_many(model, tokenizer, given.many, given.measured, given.device)
            figures |= next_step_many(model, tokenizer, given.many, given.measured, given.device)
    print(json.dumps(figures))


if __name__ == "__main__":
    cli.run(main)
