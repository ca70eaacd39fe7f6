"""Which device a process takes and in which precision. A machine without a GPU runs these with torch told of
two.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from tiny import tiny_config

from kronos.errors import KitError
from kronos.training.device import pick_device, precision
from kronos.training.distributed import Runtime


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int]], list[torch.device]]:
    """torch on a machine with two GPUs of that compute capability; gives the list of devices that were made
    current.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cuda:0")  # what an environment says must not change a run

    def pretend(capability: tuple[int, int]) -> list[torch.device]:
        taken: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "set_device", taken.append)
        monkeypatch.setattr("kronos.training.distributed.allow_tf32", lambda allowed: None)
        return taken

    yield pretend  # type: ignore[misc]
    AcceleratorState._reset_state(reset_partial_state=True)


def test_one_process_takes_the_gpu_of_device_id(
    two_gpus: Callable[..., list[torch.device]], tmp_path: Path
) -> None:
    """accelerate alone gives every single process the first GPU."""
    taken = two_gpus((7, 5))
    config = tiny_config(tmp_path, device__use_cuda=True, device__device_id=1, training__mixed_precision="no")
    second = torch.device("cuda", 1)
    assert Runtime.start(config).device == PartialState().device == second and taken == [second]
    assert pick_device(config) == second, "the submission goes where the training went"
    with pytest.raises(
        KitError, match=r"device\.device_id: expected below 2, the number of GPUs here, found 2"
    ):
        Runtime.start(tiny_config(tmp_path, device__use_cuda=True, device__device_id=2))


def test_a_cpu_run_obeys_no_device_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ACCELERATE_TORCH_DEVICE, which decides in accelerate, is left over from whatever ran before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    assert Runtime.start(tiny_config(tmp_path)).device == torch.device("cpu")


def test_bf16_that_a_gpu_emulates_is_refused(
    two_gpus: Callable[..., list[torch.device]], tmp_path: Path
) -> None:
    """A T4 computes bf16 through float32, several times slower than fp16, and torch calls it supported."""
    two_gpus((7, 5))
    with pytest.raises(
        KitError, match=r"expected auto, fp16 or no on a GPU of compute capability 7\.5, found bf16"
    ):
        Runtime.start(tiny_config(tmp_path, device__use_cuda=True, training__mixed_precision="bf16"))
    gpu = torch.device("cuda", 0)
    assert [precision(wanted, gpu) for wanted in ("auto", "fp16", "no")] == ["fp16", "fp16", "no"]
    two_gpus((8, 0))
    assert [precision(wanted, gpu) for wanted in ("auto", "bf16", "fp16")] == ["bf16", "bf16", "fp16"]
