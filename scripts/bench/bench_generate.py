#!/usr/bin/env python3
"""How fast series are forecast, beside two loops that re-run the window for every bar, and beside what the
machine could do.

    python scripts/bench/bench_generate.py               mini, 8 series: 256 + 30 and 400 + 120 steps, 1 and 32 paths
    python scripts/bench/bench_generate.py --many 5000   5,000 series x 256 bars: one forward, P(rise) of the next bar;
                                                   measured on --measured 256 of them and scaled

Prints the ceiling (matrix products, memory), then all ways of computing and the share of the ceiling,
measured again among them, that the decode loop reaches; then one JSON line. --precision bf16: as on a GPU,
for all ways. Weights are random: sampling is as fast with any; the enumeration behind P(rise) is slowest with
these, whose probabilities are nearly flat.

Both loops keep no cache: every step runs the whole window, which grows to the last step, anew for every path.
Measured with one.
* re-running (`rerun_s`, `ratio`): the kit's own, `generate_reference`: its fast norms and rotation, the first
  head on the last position only, the second head and the dependency layer on all positions as in training,
  its own random numbers.
* published (`published_s`, `published_ratio`): `PlainPredictor.generate`, the loop of the published code:
  plain modules, both heads on all positions, the dependency layer with one query, torch.multinomial.
Two steps at the first, middle and last length are measured, on at most 256 series, and scaled to all. The
cached ways take as many series and paths at once as a submission would (`memory_plan`). Everything of a
scenario is called in turn, for some rounds,
and the fastest call of each counts: a slow minute slows all of them.
"""

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
import torch

from kronos import cli
from kronos.bars import calendar_stamps
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.generate import generate, generate_reference
from kronos.forecasting.sampling import Sampling
from kronos.forecasting.settings import Settings
from kronos.networks import Kronos, KronosTokenizer, cost, preset
from kronos.planning.measure import seconds
from scripts.bench.plain import PlainPredictor

WINDOW = 4096
"""Longer than any window here: nothing is cut, nothing slides."""
SCENARIOS = ((256, 30), (400, 120))
"""Bars of context, steps."""
AT_ONCE = 64
"""Series of one batch of many."""
ROUNDS = 4
"""Calls of everything that is compared."""
MOST_RERUN = 256
"""Series that the re-running loops are measured with: they hold the logits of every position."""

Figures = dict[str, float]
Action = Callable[[], object]


class Shape(NamedTuple):
    """What is compared."""

    series: int
    context: int
    """bars"""
    horizon: int
    """steps"""
    paths: int


def in_turn(actions: dict[str, Action], device: str, rounds: int = ROUNDS) -> Figures:
    """Seconds of the fastest call of each; every round calls all of them once."""
    found = [
        {name: seconds(action, torch.device(device)) for name, action in actions.items()}
        for _ in range(rounds)
    ]
    return {name: min(took[name] for took in found) for name in actions}


def ceiling_actions(device: str, kind: torch.dtype) -> dict[str, Action]:
    """What the machine does at best: matrix products, and reading memory."""
    a, big = torch.randn(2048, 2048, device=device, dtype=kind), torch.ones(50_000_000, device=device)
    return {"products": lambda: a @ a, "memory": lambda: big.sum()}


def ceiling(took: Figures) -> Figures:
    """Rates of `ceiling_actions`."""
    return {
        "gemm_gflops": round(2 * 2048**3 / took["products"] / 1e9),
        "memory_gb_s": round(0.2 / took["memory"], 1),
    }


def inputs(model: Kronos, series: int, context: int, horizon: int, device: str) -> dict[str, torch.Tensor]:
    """Random tokens and daily stamps, as `generate` takes them."""
    days = np.datetime64("2024-01-01T00:00:00") + np.arange(context + horizon) * np.timedelta64(86400, "s")
    stamps = torch.from_numpy(calendar_stamps(days)).to(device).expand(series, -1, -1)
    g = torch.Generator().manual_seed(0)
    bits = (model.config.s1_bits, model.config.s2_bits)
    s1, s2 = (torch.randint(0, 2**b, (series, context), generator=g).to(device) for b in bits)
    keys = torch.arange(series, device=device)
    return {
        "s1": s1,
        "s2": s2,
        "stamp": stamps[:, :context],
        "future_stamp": stamps[:, context:],
        "series": keys,
    }


def arrays(given: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Bars, stamps, future stamps and keys, as a forecaster takes them."""
    bars = np.exp(np.random.default_rng(0).normal(3, 0.1, (*given["s1"].shape, 6))).astype(np.float32)
    names = {"stamps": "stamp", "future_stamps": "future_stamp", "series": "series"}
    return {"bars": bars} | {own: given[name].cpu().numpy() for own, name in names.items()}


def rerun_actions(model: Kronos, shape: Shape, device: str) -> dict[str, Action]:
    """Two steps of both re-running loops at the first, middle and last length."""
    plain, actions = PlainPredictor(model).eval().to(device), dict[str, Action]()
    context, horizon = shape.context, shape.horizon
    for place, length in enumerate((context, context + horizon // 2, context + horizon - 2)):
        given: dict[str, Any] = inputs(model, min(shape.series, MOST_RERUN), length, 2, device)
        own = given | {"sampling": Sampling(), "max_context": WINDOW}
        actions[f"rerun {place}"] = functools.partial(generate_reference, model, **own)
        del given["series"]
        actions[f"published {place}"] = functools.partial(plain.generate, **given, max_context=WINDOW)
    return actions


def cached_actions(forecaster: Forecaster, given: dict[str, Any], count: int) -> dict[str, Action]:
    """With `count` paths: all tokens, those of the first step, and arrays to prices."""
    context, horizon = given["s1"].shape[1], given["future_stamp"].shape[1]
    plan = forecaster.memory_plan(context, horizon)
    drawn: dict[str, Any] = {
        "sampling": forecaster.sampling,
        "max_context": WINDOW,
        "replayed": forecaster.settings.cuda_graphs,
        "integers": forecaster.settings.integers,
    }

    def tokens(steps: int) -> None:
        for first in range(0, len(given["s1"]), plan.series):
            part = {name: x[first : first + plan.series] for name, x in given.items()}
            part["future_stamp"] = part["future_stamp"][:, :steps]
            with forecaster.precision():
                generate(forecaster.model, **part, **drawn, paths_at_once=plan.paths)

    return {
        f"tokens {count}": functools.partial(tokens, horizon),
        f"first {count}": functools.partial(tokens, 1),
        f"end to end {count}": functools.partial(forecaster.forecast, **arrays(given)),
    }


def under(device: str, kind: torch.dtype, actions: dict[str, Action]) -> dict[str, Action]:
    """The actions under autocast, unless `kind` is float32."""

    def run(action: Action) -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=kind == torch.bfloat16):
            action()

    return {name: functools.partial(run, action) for name, action in actions.items()}


def least_seconds(model: Kronos, size: tuple[int, int, int, int], figures: Figures, element: int) -> float:
    """What the decode loop takes at least: weights, context and own keys and values read once a step, or the
    products.

    size: series, paths, context, steps behind the first.
    """
    c, (series, paths, context, steps) = model.config, size
    parts, token = cost.predictor_parameters(c), cost.cache_bytes_per_token(c, element)
    weights, seen = sum(parts[name] for name in ("blocks", "dependency", "heads")), steps * (steps + 1) // 2
    read = steps * (weights * element + series * context * token) + series * paths * seen * token
    attended = (c.n_layers + 1) * 2 * c.d_model * (steps * context + seen)
    products = 2 * series * paths * (steps * weights + attended)
    return max(read / figures["memory_gb_s"], products / figures["gemm_gflops"]) / 1e9


def measure(
    model: Kronos,
    tokenizer: KronosTokenizer,
    shape: Shape,
    device: str,
    kind: torch.dtype,
    settings: Settings,
) -> Figures:
    """Seconds of all ways on the same context, one path and many. settings: of the cached ones."""
    given: dict[str, Any] = inputs(model, *shape[:3], device)
    own = Forecaster(model, tokenizer, settings, torch.device(device))
    one, many = (
        cached_actions(own.using(sampling=Sampling(sample_count=n)), given, n) for n in (1, shape.paths)
    )
    rerun = under(device, kind, rerun_actions(model, shape, device))
    everything = ceiling_actions(device, kind) | one | rerun | many
    return in_turn(everything, device)


def summary(model: Kronos, shape: Shape, took: Figures, element: int) -> Figures:
    """The figures of a scenario from what everything took; element: bytes of a number."""
    best = ceiling(took)
    horizon, (one, many) = shape.horizon, (took[f"tokens {n}"] for n in (1, shape.paths))
    scale = horizon / 6 * shape.series / min(shape.series, MOST_RERUN)
    rerun, published = (
        sum(took[f"{loop} {place}"] for place in range(3)) * scale for loop in ("rerun", "published")
    )
    ends = [took[f"end to end {n}"] for n in (1, shape.paths)]
    shares = []
    for count in (1, shape.paths):
        least = least_seconds(model, (shape.series, count, shape.context, horizon - 1), best, element)
        shares.append(least / (took[f"tokens {count}"] - took[f"first {count}"]))
    return best | {
        "rerun_s": rerun,
        "published_s": published,
        "cached_s": one,
        "ratio": rerun / one,
        "published_ratio": published / one,
        "paths_s": many,
        "paths_ratio": many / one,
        "decode_share": shares[0],
        "decode_share_paths": shares[1],
        "end_to_end_s": ends[0],
        "end_to_end_paths_s": ends[1],
        "end_to_end_paths_ratio": ends[1] / ends[0],
    }


def report(shape: Shape, f: Figures) -> None:
    """A scenario for people."""
    series, context, horizon, paths = shape
    print(f"{context} + {horizon} steps, {series} series: cached {f['cached_s']:.3f} s")
    print(
        f"  re-running loop {f['rerun_s']:.2f} s: {f['ratio']:.1f} x; published loop {f['published_s']:.2f} s",
        end="",
    )
    print(f": {f['published_ratio']:.1f} x")
    print(f"  {paths} paths: {f['paths_s']:.3f} s, {f['paths_ratio']:.1f} x one path")
    print(
        f"  the decode loop alone reaches {f['decode_share']:.0%} of the ceiling, with {paths} paths", end=""
    )
    print(f" {f['decode_share_paths']:.0%} ({f['gemm_gflops']:.0f} GFLOP/s, {f['memory_gb_s']:.1f} GB/s)")
    print(
        f"  arrays to prices: one path {f['end_to_end_s']:.3f} s, {paths} paths {f['end_to_end_paths_s']:.3f} s",
        end="",
    )
    print(f", {f['end_to_end_paths_ratio']:.1f} x", flush=True)


def forward_many(forecaster: Forecaster, many: int, measured: int) -> Figures:
    """One forward of many series x 256 bars and the logits of what follows the last bar, in batches; tokens
    to logits.
    """
    model, device = forecaster.model, str(forecaster.device)
    given = inputs(model, AT_ONCE, 256, 1, device)
    seen = [given[name] for name in ("s1", "s2", "stamp")]

    def forward() -> None:
        for _ in range(-(-measured // AT_ONCE)):
            with torch.inference_mode(), forecaster.precision():
                model.s1_logits(model.prefill(*seen, paths=1, steps=0).hidden)

    took = seconds(forward, torch.device(device)) * many / (-(-measured // AT_ONCE) * AT_ONCE)
    rate = (
        cost.predictor_flops(model.config, forecaster.tokenizer.config, 257)["blocks"].forward
        * many
        / took
        / 1e9
    )
    print(
        f"one forward of {many} series x 256 bars: {took:.1f} s, measured on {measured}; its blocks alone: {rate:.0f} GFLOP/s"
    )
    return {f"forward_{many}_s": round(took, 1)}


def next_step_many(forecaster: Forecaster, many: int, measured: int) -> Figures:
    """P(rise) of the next bar after 256 of them, arrays to probabilities."""
    given = arrays(inputs(forecaster.model, measured, 256, 1, str(forecaster.device)))
    took = seconds(lambda: forecaster.next_step(**given), forecaster.device) * many / measured
    print(
        f"P(rise) of the next bar of {many} series x 256 bars: {took:.1f} s, measured on {measured}",
        flush=True,
    )
    return {f"next_step_{many}_s": round(took, 1)}


def main() -> None:
    options = cli.parser(__doc__ or "")
    options.add_argument("--preset", default="mini")
    options.add_argument("--device", default="cpu")
    options.add_argument(
        "--precision", choices=["fp32", "bf16", "int8"], default="fp32", help="of the predictor"
    )
    for name, default in {"series": 8, "paths": 32, "many": 0, "measured": 256}.items():
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument(
        "--scenario",
        action="append",
        default=[],
        metavar="BARS+STEPS",
        help="instead of the two, e.g. 392+120",
    )
    options.add_argument("--cuda-graphs", action="store_true", help="inference.cuda_graphs, on a GPU")
    options.add_argument(
        "--only-many", action="store_true", help="leave out the comparison with the re-running loops"
    )
    given = options.parse_args()
    torch.manual_seed(0)
    bars, tokens = preset(given.preset)
    tokenizer, model = (
        KronosTokenizer(**bars).eval().to(given.device),
        Kronos(**tokens).eval().to(given.device),
    )
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}[given.precision]
    settings = Settings(max_context=WINDOW, cuda_graphs=given.cuda_graphs, integers=given.precision == "int8")
    if kind != torch.float32:
        settings = replace(settings, autocast=kind)
    figures = ceiling(in_turn(ceiling_actions(given.device, kind), given.device, 8))
    print(f"{given.preset} on {given.device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"at best {figures['gemm_gflops']} GFLOP/s and {figures['memory_gb_s']} GB/s", flush=True)
    asked = [tuple(map(int, text.split("+"))) for text in given.scenario] or SCENARIOS
    for context, horizon in () if given.only_many else asked:
        shape = Shape(given.series, context, horizon, given.paths)
        found = summary(
            model,
            shape,
            measure(model, tokenizer, shape, given.device, kind, settings),
            kind.itemsize,
        )
        report(shape, found)
        figures |= {f"{name}_{context}_{horizon}": round(value, 3) for name, value in found.items()}
    if given.many:
        forecaster = Forecaster(model, tokenizer, settings, torch.device(given.device))
        figures |= forward_many(forecaster, given.many, given.measured) | next_step_many(
            forecaster, given.many, given.measured
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    cli.run(main)
