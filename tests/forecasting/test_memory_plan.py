"""How much is forecast at once: what fits, counted from above, and the same answers whatever fits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_forecaster import inputs, make

from kronos.forecasting import forecaster as module
from kronos.forecasting.memory import SHARE, plan_memory
from kronos.networks import preset
from kronos.networks.predictor import PredictorConfig
from kronos.networks.tokenizer import TokenizerConfig

TOKENIZER, PREDICTOR = preset("base")
NETWORKS = (PredictorConfig(**PREDICTOR), TokenizerConfig(**TOKENIZER))

PEAK = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import torch
from bench_generate import arrays, inputs
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.sampling import Sampling
from kronos.forecasting.settings import Settings
from kronos.networks import Kronos, KronosTokenizer, preset

def peak():
    status = open("/proc/self/status").read()  # getrusage starts from the peak of the process that forked this one
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

bars, tokens = preset("mini")
model, tokenizer = Kronos(**tokens).eval(), KronosTokenizer(**bars).eval()
own = Forecaster(model, tokenizer, Settings(sampling=Sampling(sample_count=33), batch_size=16))
Forecaster(model, tokenizer).forecast(**arrays(inputs(model, 1, 8, 2, "cpu")))
given, before = arrays(inputs(model, 16, 256, 20, "cpu")), peak()
own.forecast(**given)
print(json.dumps([peak() - before, own.memory_plan(256, 20).bytes]))
"""


def plan(**settings: Any) -> Any:
    given: dict[str, Any] = {
        "context": 392,
        "horizon": 120,
        "paths": 100,
        "element": 2,
        "kind": "cuda",
        "free": 80 * 10**9,
    }
    return plan_memory(*NETWORKS, **given | settings)


@pytest.mark.parametrize("free", [10**9, 4 * 10**9, 15 * 10**9, 80 * 10**9])
@pytest.mark.parametrize("paths", [1, 33, 1000])
def test_it_fits_and_more_would_not(free: int, paths: int) -> None:
    """A batch chosen by habit ends in out of memory on a T4 and leaves nine tenths of an H100 empty."""
    found = plan(free=free, paths=paths)
    assert found.series >= 1 and 1 <= found.paths <= paths
    if found.bytes > free * SHARE["cuda"]:
        assert (found.series, found.paths) == (1, 1), "one path of one series is always tried"
    else:
        twice = found.bytes + found.series * found.series_bytes
        assert twice > free * SHARE["cuda"] or found.series == 1024
        assert found.series.bit_count() == 1, "a little more free memory gives the same batches, bit for bit"
    assert found.paths == paths or found.series == 1, (
        "paths are split only where one series does not fit whole"
    )


def test_what_was_asked_for_is_kept_and_said() -> None:
    """A setting that is ignored is worse than none."""
    assert plan(series=7).series == 7
    text = str(plan(free=2 * 10**9, paths=1000))
    assert text.startswith("1 series at once, 1000 paths in ") and text.endswith(" GB of 2 GB free")


@pytest.mark.slow
def test_it_counts_from_above(root: Path) -> None:
    """A plan that forgets a tensor lets the run die; one that is ten times too careful makes it slow. A real
    process's peak.
    """
    arguments = [sys.executable, "-c", PEAK, str(root), str(root / "scripts" / "bench")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    used, planned = json.loads(done.stdout)
    assert used < planned < 5 * used


@pytest.mark.parametrize("overflow", ["cut", "slide"])
def test_little_memory_changes_no_path(monkeypatch: pytest.MonkeyPatch, overflow: str) -> None:
    """Paths in several passes are the paths of one, also where the window slides."""
    settings: dict[str, Any] = {"batch_size": None, "overflow": overflow} | (
        {"max_context": 26} if overflow == "slide" else {}
    )
    own, seen = make(**settings), list[int]()
    whole = own.forecast(**inputs()).paths
    horizon, context = whole.shape[2], inputs()["bars"].shape[1]
    large = own.memory_plan(context, horizon)
    monkeypatch.setattr(
        module, "free_memory", lambda *_: int((large.fixed_bytes + large.series_bytes * 0.6) / SHARE["cpu"])
    )
    small = own.memory_plan(context, horizon)
    assert small.series == 1 and small.paths < large.paths == whole.shape[1]
    found = own.forecast(**inputs(), progress=seen.append).paths
    assert seen == [1] * len(whole)
    np.testing.assert_allclose(found, whole, rtol=1e-4)
