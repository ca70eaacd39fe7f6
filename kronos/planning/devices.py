"""Devices to plan for: their memory, peak rates and bandwidth; and how fast this machine really is.

In: a device's name, or `auto` for this machine. Out: `Device`, and the seconds of a probed step.
Sources of the table: NVIDIA's datasheets (T4: DS-09184; Tesla P100 PCIe; A100 40 GB PCIe; H100 SXM5), dense
rates without sparsity, in FLOP/s of one device. A100 and H100 come in several sizes: the table has the one
that is named.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from kronos.config import Config
from kronos.errors import KitError
from kronos.planning.measure import seconds
from kronos.training.device import precision

GB = 10**9
CONTEXT_BYTES = int(0.8 * GB)
"""Assumed: what the CUDA context, its libraries and their workspaces take of a GPU's memory."""
FRAGMENTATION = 0.05
"""Assumed: share of a GPU's memory that the allocator cannot use."""
HOST_SHARE = 0.9
"""Of the memory that is free now on a CPU machine."""


@dataclass(frozen=True)
class Device:
    """One device, as far as a plan has to know it."""

    name: str
    memory: int
    """bytes"""
    peak: dict[str, float] = field(default_factory=dict)
    """FLOP/s by type of number: fp32, tf32, fp16, bf16; empty: unknown"""
    bandwidth: float = 0.0
    """bytes/s"""
    half: str = "no"
    """what `mixed_precision: auto` means on it"""
    kind: str = "cuda"
    here: bool = False

    @property
    def usable(self) -> int:
        """Bytes that a process may plan with."""
        if self.kind == "cpu":
            return int(self.memory * HOST_SHARE)
        return int(self.memory * (1 - FRAGMENTATION)) - CONTEXT_BYTES

    def rate(self, precision: str, tf32: bool) -> float | None:
        """FLOP/s of matrix products under a mixed precision; None: unknown."""
        plain = "tf32" if tf32 and "tf32" in self.peak else "fp32"
        return self.peak.get(plain if precision == "no" else precision)

    def precision(self, wanted: str) -> str:
        """The mixed precision that a setting means on this device."""
        return self.half if wanted == "auto" else wanted


T = 1e12
DEVICES = {
    # 16 GB GDDR6 of which 15,360 MiB are left with ECC; FP32 8.1, FP16 tensor 65 TFLOP/s; 300 GB/s
    "T4": Device("T4", 15_360 << 20, {"fp32": 8.1 * T, "fp16": 65 * T}, 300e9, "fp16"),
    # 16 GB HBM2; FP32 9.3, FP16 18.7 TFLOP/s, no tensor cores; 732 GB/s
    "P100": Device("P100", 16_276 << 20, {"fp32": 9.3 * T, "fp16": 18.7 * T}, 732e9, "fp16"),
    # 40 GB HBM2; FP32 19.5, TF32 156, FP16 and BF16 312 TFLOP/s; 1,555 GB/s
    "A100": Device(
        "A100",
        40_536 << 20,
        {"fp32": 19.5 * T, "tf32": 156 * T, "fp16": 312 * T, "bf16": 312 * T},
        1555e9,
        "bf16",
    ),
    # 16 GB HBM2; FP32 15.7, FP16 tensor 125 TFLOP/s, no bfloat16; 900 GB/s
    "V100": Device("V100", 16_160 << 20, {"fp32": 15.7 * T, "fp16": 125 * T}, 900e9, "fp16"),
    # 24 GB GDDR6X; FP32 35.6, TF32 35.6, FP16 and BF16 with sums in FP32 71 TFLOP/s; 936 GB/s
    "RTX3090": Device(
        "RTX3090",
        24_576 << 20,
        {"fp32": 35.6 * T, "tf32": 35.6 * T, "fp16": 71 * T, "bf16": 71 * T},
        936e9,
        "bf16",
    ),
    # 24 GB GDDR6X; FP32 82.6, TF32 82.6, FP16 and BF16 with sums in FP32 165 TFLOP/s; 1,008 GB/s
    "RTX4090": Device(
        "RTX4090",
        24_564 << 20,
        {"fp32": 82.6 * T, "tf32": 82.6 * T, "fp16": 165 * T, "bf16": 165 * T},
        1008e9,
        "bf16",
    ),
    # 48 GB GDDR6; FP32 38.7, TF32 77.4, FP16 and BF16 154.8 TFLOP/s; 768 GB/s
    "A6000": Device(
        "A6000",
        49_140 << 20,
        {"fp32": 38.7 * T, "tf32": 77.4 * T, "fp16": 154.8 * T, "bf16": 154.8 * T},
        768e9,
        "bf16",
    ),
    # 80 GB HBM3; FP32 67, TF32 495, FP16 and BF16 989 TFLOP/s; 3,350 GB/s
    "H100": Device(
        "H100",
        81_559 << 20,
        {"fp32": 67 * T, "tf32": 495 * T, "fp16": 989 * T, "bf16": 989 * T},
        3350e9,
        "bf16",
    ),
}

DRIVER_NAMES = {
    "T4": "T4",
    "P100-PCIE": "P100",
    "V100-SXM2-16GB": "V100",
    "RTX 3090": "RTX3090",
    "RTX 4090": "RTX4090",
    "RTX A6000": "A6000",
    "A100": "A100",
    "H100 80GB HBM3": "H100",
}
"""Part of the name that a driver gives a GPU -> its row; others, such as the slower H100 PCIe, have no
row.
"""


def find_device(name: str, config: Config) -> Device:
    """The device of that name in the table; `auto`: this machine's, as the configuration would use it. Raises
    KitError.
    """
    if name != "auto":
        if name not in DEVICES:
            raise KitError(f"--device: expected auto or one of {', '.join(DEVICES)}, found {name}")
        return DEVICES[name]
    if config.device.use_cuda and torch.cuda.is_available():
        return this_gpu(config.device.device_id)
    return this_cpu(config.distributed.num_processes)


def this_gpu(index: int) -> Device:
    """The GPU that a run would use: rates from the table where its name is in there."""
    properties = torch.cuda.get_device_properties(index)
    known = next((DEVICES[row] for part, row in DRIVER_NAMES.items() if part in properties.name), None)
    rates: dict[str, Any] = {"peak": known.peak, "bandwidth": known.bandwidth} if known else {}
    return Device(
        properties.name,
        properties.total_memory,
        half=precision("auto", torch.device("cuda", index)),
        here=True,
        **rates,
    )


def this_cpu(processes: int) -> Device:
    """This machine's processor and this process's share of its free memory; its rates are measured, in half a
    second.
    """
    free = psutil.virtual_memory().available // processes
    device = torch.device("cpu")
    half, peak = precision("auto", device), {"fp32": matmul_rate(device, torch.float32)}
    if half == "bf16":
        peak["bf16"] = matmul_rate(device, torch.bfloat16)
    name = f"CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    return Device(
        name,
        free,
        peak,
        copy_rate(),
        half,
        "cpu",
        here=True,
    )


def matmul_rate(device: torch.device, kind: torch.dtype, size: int | None = None, repeats: int = 5) -> float:
    """FLOP/s of the best of a few square matrix products: the peak that a program can reach on this
    device.
    """
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b, device) for _ in range(repeats))


def copy_rate(megabytes: int = 64) -> float:
    """bytes/s read and written by a copy in this machine's memory."""
    source = torch.ones(megabytes << 18)
    target = torch.empty_like(source)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        target.copy_(source)
        taken.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(taken)
