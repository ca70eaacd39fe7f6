"""How much memory and time a step really takes on this machine: what the plan is held to.

In: something to call. Out: bytes, seconds. On a GPU the allocator's own counters; on a CPU every allocation
as torch's profiler records it, so that the answer is exact and does not depend on what else the process
holds.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Largest growth of allocated tensor memory while `step` runs, over what was allocated before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, with the device's work done."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - began
