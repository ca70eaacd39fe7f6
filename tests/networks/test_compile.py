"""torch.compile as a setting: the same training, faster where it pays."""

from pathlib import Path

import pytest
import torch
import torch._dynamo
from tiny import tiny_config, tiny_store
from training_worker import tiny_objective

from kronos.data.store import BarStore
from kronos.training.checkpoint import Progress, load_newest
from kronos.training.distributed import Runtime
from kronos.training.facts import StageData
from kronos.training.folder import read_records
from kronos.training.loop import Keepers, Trainer
from kronos.training.start import loop_settings, streams


def trained(store: BarStore, folder: Path, compiled: bool) -> list[float]:
    """Logged losses of two epochs with a short last batch; weights in folder/checkpoints."""
    config = tiny_config(folder, training__log_interval=1)
    runtime = Runtime.start(config)
    data = StageData.of(config, "basemodel", store)
    objective = tiny_objective(config, "basemodel")
    if compiled:
        objective.compile_training()
    loop = loop_settings(config, "basemodel", data.plan)
    trainer = Trainer(objective, loop, streams(config, data, store, runtime), runtime, folder, Progress())
    assert trainer.fit(None, Keepers(lambda: None), measure_start=False) == "complete"
    return [r["loss"] for r in read_records(folder / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.usefixtures("compiling")
def test_compiled_training_has_the_same_losses_names_and_checkpoints(tmp_path: Path) -> None:
    """Keeps out checkpoints with `_orig_mod.` names, losses of another network, and a compilation for every
    short last batch.
    """
    store = tiny_store(tmp_path / "store")
    plain = trained(store, tmp_path / "plain", compiled=False)
    with torch._dynamo.config.patch(error_on_recompile=True):
        fast = trained(store, tmp_path / "fast", compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    assert len(fast) == len(plain) == 14 and fast == pytest.approx(plain, rel=1e-4)
    found, expected = (load_newest(tmp_path / name / "checkpoints") for name in ("fast", "plain"))
    assert found is not None and expected is not None and found.weights.keys() == expected.weights.keys()
    tiny_objective(tiny_config(tmp_path), "basemodel").network().load_state_dict(found.weights, strict=True)
