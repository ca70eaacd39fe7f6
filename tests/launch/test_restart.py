"""Starting again never destroys: what is there is looked at first, and what may not go on moves aside or is
refused.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_tensors
from test_checkpoint import pickled, respelled
from test_training import interrupt_after
from tiny import tiny_config, tiny_store

from kronos import files
from kronos.config import Config, from_dict, to_dict
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.training.facts import STAGES, Stage, difference
from kronos.training.folder import summary_of
from kronos.training.restart import StageState, refusal, set_aside, state_of, with_saved_windows
from kronos.training.stages import run_stage


@pytest.fixture
def store(tmp_path: Path) -> BarStore:
    return tiny_store(tmp_path / "store")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data and a complete run, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    store = tiny_store(folder / "store")
    for stage in STAGES:
        assert run_stage(tiny_config(folder), stage, store) == "complete"
    return folder


@pytest.fixture
def complete(trained: Path, tmp_path: Path) -> Path:
    """The folder of a complete run of its own."""
    for name in ("store", "run"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file under a folder, but of the lock."""
    return {
        str(p.relative_to(folder)): files.digest(p)
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def states(config: Config, *stages: Stage) -> dict[Stage, StageState]:
    return {stage: state_of(config, stage) for stage in stages or STAGES}


def statuses(config: Config) -> list[str]:
    return [state.status for state in states(config).values()]


# -- what is there -------------------------------------------------------------------------------------------
def test_the_same_command_on_a_complete_run_touches_nothing(complete: Path) -> None:
    """Defect 2: the same command without --skip-existing removed checkpoints and metrics of a finished run
    without a word.
    """
    config = tiny_config(complete)
    before = contents(config.run_dir)
    assert statuses(config) == ["complete", "complete"]
    for stage in STAGES:
        assert run_stage(config, stage, BarStore.open(config.data.store)) == "complete"
    assert contents(config.run_dir) == before


def test_the_same_command_resumes_what_was_interrupted(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Resuming is the default: nobody has to know a flag to keep hours of work."""
    config = tiny_config(tmp_path)
    assert statuses(config) == ["absent", "absent"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)
        assert run_stage(config, "tokenizer", store) == "interrupted"
    state = state_of(config, "tokenizer")
    assert (state.status, state.step) == ("interrupted", 9)
    with caplog.at_level("INFO"):
        assert run_stage(config, "tokenizer", store) == "complete"
    assert "going on from step 9 of 12" in caplog.text


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"training__predictor_learning_rate": 1e-3}, "learning_rate: saved 4e-05, now 0.001"),
        ({"training__seed": 7}, "seed: saved"),
        ({"training__basemodel_epochs": 9}, "total_steps: saved"),
        ({"data__lookback_window": 10}, "data.lookback_window: saved 12, now 10"),
        ({"experiment__preset": "mini"}, "start: saved 'nano', now 'mini'"),
    ],
)
def test_settings_that_learn_something_else_are_refused_before_anything_is_touched(
    complete: Path, settings: dict[str, Any], changed: str
) -> None:
    """Defect 2: another learning rate trained over the finished run."""
    config = tiny_config(complete, **settings)
    before = contents(config.run_dir)
    found = states(config)
    assert found["basemodel"].status == "other_settings" and found["basemodel"].finished
    refused = refusal(config, found)
    assert refused is not None and "\n" not in str(refused)
    for part in (changed, "--skip-existing", "--fresh", "run.old-1", "--set model_paths."):
        assert part in str(refused)
    with pytest.raises(KitError, match="Nothing was changed"):
        run_stage(config, "basemodel", BarStore.open(config.data.store))
    assert contents(config.run_dir) == before
    kept = dataclasses.replace(config, experiment=dataclasses.replace(config.experiment, skip_existing=True))
    assert refusal(kept, found) is None
    anew = dataclasses.replace(config, experiment=dataclasses.replace(config.experiment, fresh=True))
    assert refusal(anew, found) is None


@pytest.mark.parametrize(
    "settings",
    [
        {
            "training__num_workers": 1,
            "training__log_interval": 7,
            "training__checkpoint_steps": 3,
            "training__checkpoint_minutes": 1.0,
        },
        {"training__use_checkpoint": True, "training__trackers": []},
        {"training__batch_size": 2, "training__accumulation_steps": 2},
        {"training__batch_size": 1, "distributed__num_processes": 4},
    ],
)
def test_what_changes_no_weight_may_change(complete: Path, settings: dict[str, Any]) -> None:
    """A refusal for a log interval would teach people to add --fresh to everything."""
    assert tiny_config(complete).training.batch_size == 4
    assert statuses(tiny_config(complete, **settings)) == ["complete", "complete"]


def test_the_refusal_offers_the_tokenizer_that_is_there(complete: Path) -> None:
    """Another learning rate of the predictor needs no other tokenizer: hours are saved by a line that says
    so.
    """
    config = tiny_config(complete, training__predictor_learning_rate=1e-3)
    text = str(refusal(config, states(config)))
    tokenizer = config.tokenizer_dir / "best_model"
    assert f"--skip-tokenizer --fresh (moves {config.basemodel_dir} to {config.run_dir}.old-1" in text
    assert f"--skip-tokenizer --set model_paths.finetuned_tokenizer={tokenizer} reuses this tokenizer" in text
    both = tiny_config(complete, training__seed=7)
    assert "reuses this tokenizer" not in str(refusal(both, states(both)))


def test_without_prepared_data_the_settings_that_make_them_are_compared(complete: Path) -> None:
    """The launcher asks before it prepares: other cleaning would be found out after the old store is gone."""
    shutil.rmtree(complete / "store")
    assert statuses(tiny_config(complete)) == ["complete", "complete"]
    cleaning = dataclasses.replace(tiny_config(complete).data.cleaning, jump="drop")
    assert statuses(tiny_config(complete, data__cleaning=cleaning)) == ["other_settings", "other_settings"]
    longer = states(tiny_config(complete, training__basemodel_epochs=9))
    assert [state.status for state in longer.values()] == ["complete", "other_settings"]


# -- damage --------------------------------------------------------------------------------------------------
def test_a_damaged_tokenizer_is_trained_again_and_nothing_else(
    complete: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Defect 7b: one changed byte in tokenizer/best_model, and the finished predictor was thrown away for the
    damaged one.
    """
    config = tiny_config(complete, experiment__skip_existing=True)
    predictor = contents(config.basemodel_dir)
    flip(config.tokenizer_dir / "best_model" / "model.safetensors")
    found = states(config)
    assert [state.status for state in found.values()] == ["damaged", "complete"]
    assert "the stage is trained again" in found["tokenizer"].lines[0]
    store = BarStore.open(config.data.store)
    with pytest.raises(KitError, match=r"expected the tokenizer that its summary\.json describes"):
        run_stage(config, "basemodel", store)
    assert contents(config.basemodel_dir) == predictor
    assert [run_stage(config, stage, store) for stage in STAGES] == ["complete", "complete"]
    assert "expected the network that" in caplog.text and "moved" in caplog.text
    assert contents(config.basemodel_dir) == predictor, (
        "the same tokenizer again, and its predictor untouched"
    )
    assert (complete / "run.old-1" / "tokenizer" / "best_model").is_dir()


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_a_missing_or_damaged_predictor_is_trained_again(complete: Path, damage: str) -> None:
    """Defect 7b: it counted as complete, and the submission then asked for a training that never came."""
    config = tiny_config(complete, experiment__skip_existing=True)
    tokenizer = contents(config.tokenizer_dir)
    network = config.basemodel_dir / "best_model"
    expected = files.folder_digest(network)
    if damage == "gone":
        shutil.rmtree(network)
    else:
        flip(network / "model.safetensors")
    assert statuses(config) == ["complete", "damaged"]
    store = BarStore.open(config.data.store)
    assert [run_stage(config, stage, store) for stage in STAGES] == ["complete", "complete"]
    assert files.folder_digest(network) == expected and contents(config.tokenizer_dir) == tokenizer


@pytest.mark.parametrize(
    "text", ["null", "[]", "3", "{}", '{"status": 5}', '{"status": "complete", "best": {"value": NaN}}', ""]
)
def test_a_summary_of_another_shape_never_trains_a_finished_stage_anew(
    complete: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Defect 14d: a summary `null` trained a finished stage anew without a word; other shapes were
    tracebacks.
    """
    config = tiny_config(complete)
    expected = files.folder_digest(config.tokenizer_dir / "best_model")
    (config.tokenizer_dir / "summary.json").write_text(text)
    state = state_of(config, "tokenizer")
    assert state.status == "interrupted" and "summary.json" in state.lines[0]
    assert run_stage(config, "tokenizer", BarStore.open(config.data.store)) == "complete"
    assert "summary.json" in caplog.text and not (complete / "run.old-1").exists()
    summary = summary_of(config.tokenizer_dir)
    assert summary is not None and summary.model_digest == expected == files.folder_digest(
        config.tokenizer_dir / "best_model"
    )


def test_all_checkpoints_damaged_is_said_and_moves_aside(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Training begins again, but not silently, and the damaged files stay where someone may still mend
    them.
    """
    config = tiny_config(tmp_path)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)
        run_stage(config, "tokenizer", store)
    for path in config.tokenizer_dir.glob("checkpoints/*/model.safetensors"):
        flip(path)
    assert state_of(config, "tokenizer").status == "damaged"
    assert run_stage(config, "tokenizer", store) == "complete"
    assert "no checkpoint is readable" in caplog.text
    assert list((tmp_path / "run.old-1" / "tokenizer" / "checkpoints").iterdir())


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_checkpoint_of_another_network_is_one_line(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Defect 14d: right checksums, wrong inside: a traceback of torch."""
    config = tiny_config(tmp_path)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)
        run_stage(config, "tokenizer", store)
    folder = sorted(config.tokenizer_dir.glob("checkpoints/step_*"))[-1]
    if file == "model.safetensors":
        respelled(folder, file, save_tensors({"w": torch.ones(3)}))
    else:
        respelled(folder, file, pickled({"optimizer": {"state": {}, "param_groups": []}}))
    with pytest.raises(
        KitError, match="expected the state of this stage's network, found another's"
    ) as caught:
        run_stage(config, "tokenizer", store)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


# -- moving aside --------------------------------------------------------------------------------------------
def test_only_the_stages_about_to_be_trained_move(complete: Path) -> None:
    """`--skip-tokenizer --fresh` retrains the predictor on the tokenizer that is there; the old networks stay
    usable.
    """
    config = tiny_config(complete)
    (config.run_dir / "backtest").mkdir()
    (config.run_dir / "backtest" / "report.json").write_text("{}")
    tokenizer, predictor = contents(config.tokenizer_dir), contents(config.basemodel_dir)
    target = set_aside(config, ["basemodel"])
    assert target == complete / "run.old-1" and sorted(p.name for p in target.iterdir()) == [
        "backtest",
        "basemodel",
        "pipeline_config.json",
    ]
    assert contents(config.tokenizer_dir) == tokenizer and contents(target / "basemodel") == predictor
    old = from_dict(json.loads((target / "pipeline_config.json").read_text()))
    assert old.basemodel_dir == target / "basemodel"
    assert Path(old.model_paths.finetuned_tokenizer) == config.tokenizer_dir / "best_model"
    assert statuses(config) == ["complete", "absent"]
    assert run_stage(config, "basemodel", BarStore.open(config.data.store)) == "complete"
    second = set_aside(config, STAGES)
    assert second == complete / "run.old-2"
    own = from_dict(json.loads((second / "pipeline_config.json").read_text()))
    assert Path(own.model_paths.finetuned_tokenizer) == second / "tokenizer" / "best_model"
    assert not set_aside(config, STAGES).exists(), "nothing was there to move"


def test_a_run_in_progress_is_not_moved(complete: Path) -> None:
    """Its trainer would write checkpoints into nowhere."""
    config = tiny_config(complete)
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(config.run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert held.stdin is not None and held.stdout is not None
    assert held.stdout.readline() == b"held\n"
    with pytest.raises(KitError, match="another run is training"):
        set_aside(config, ["basemodel"])
    held.communicate(b"done")
    assert config.basemodel_dir.is_dir()


HOLD = """
import sys
from pathlib import Path
from kronos.training.folder import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_difference_names_what_changed() -> None:
    """Keeps out a refusal that does not say why."""
    assert difference({"a": 1, "b": [1, 2]}, {"a": 2, "b": [1, 2], "c": None}) == ["a: saved 1, now 2"]
    assert difference({"a": 1}, {}) == ["a: saved 1, now None"]


@pytest.mark.parametrize(
    ("before", "processes", "accumulation"), [((4, 2, 1), 2, 1), ((2, 2, 2), 1, 4), ((2, 3, 1), 3, 1)]
)
def test_another_number_of_processes_keeps_the_windows_of_a_step(
    store: BarStore, tmp_path: Path, before: tuple[int, int, int], processes: int, accumulation: int
) -> None:
    """Defect 19: another number of GPUs was refused, and the line did not say that accumulation is the
    way.
    """
    begun(store, tmp_path, *before)
    config = cut(tmp_path, before[0], before[1], processes)
    assert with_saved_windows(config, "tokenizer").training.accumulation_steps == accumulation
    assert state_of(config, "tokenizer").status == "complete"


def test_windows_that_cannot_be_divided_name_what_fits(store: BarStore, tmp_path: Path) -> None:
    begun(store, tmp_path, 4, 3, 1)
    with pytest.raises(
        KitError, match=r"a step of 12 windows.*set training\.batch_size=3 and training\.accumulation_steps=2"
    ):
        state_of(cut(tmp_path, 4, 3, 2), "tokenizer")
    with pytest.raises(KitError, match="take a number of processes that divides 12"):
        state_of(cut(tmp_path, 4, 3, 5), "tokenizer")


def cut(folder: Path, batch: int, accumulation: int, processes: int) -> Config:
    """The tiny run with its steps cut in another way."""
    return tiny_config(
        folder,
        training__batch_size=batch,
        training__accumulation_steps=accumulation,
        distributed__num_processes=processes,
    )


def begun(store: BarStore, folder: Path, batch: int, accumulation: int, processes: int) -> None:
    """A complete tokenizer of one process whose summary names these numbers; the product is what was
    trained.
    """
    config = cut(folder, batch * processes, accumulation, 1)
    assert run_stage(config, "tokenizer", store) == "complete"
    path = config.tokenizer_dir / "summary.json"
    summary = json.loads(path.read_text())
    files.write_json(path, summary | {"config": to_dict(cut(folder, batch, accumulation, processes))})
