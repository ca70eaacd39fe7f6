"""Where metrics go besides metrics.jsonl: event files, the picture of the loss curves, the table at the
end.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from test_training import interrupt_after
from tiny import tiny_config, tiny_store

from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.training import runlog
from kronos.training.checkpoint import Progress
from kronos.training.folder import read_records, table
from kronos.training.stages import run_stage


@pytest.fixture
def store(tmp_path: Path) -> BarStore:
    return tiny_store(tmp_path / "store")


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from a folder: (step, value) by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def test_tensorboard_has_every_step_once_also_after_a_resume(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out curves that jump back in time, and points that a stopped run never wrote to its event
    file.
    """
    config = tiny_config(tmp_path, training__trackers=["tensorboard"], experiment__skip_existing=True)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        assert run_stage(config, "tokenizer", store) == "interrupted"
    assert run_stage(config, "tokenizer", store) == "complete"
    folder = config.tokenizer_dir
    found = events(folder / "tensorboard")
    records = read_records(folder / "metrics.jsonl")
    for kind, name in (("train", "loss"), ("validation", "full_mse")):
        expected = [(r["step"], pytest.approx(r[name], rel=1e-6)) for r in records if r["kind"] == kind]
        assert found[f"{kind}/{name}"] == expected and len(expected) > 1
    picture = folder / "loss.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000


def test_a_tracker_that_is_missing_is_an_error_before_training_but_tensorboard_a_line(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Keeps out an hour of training whose curves go nowhere, and a default that stops a machine without
    TensorBoard.
    """
    monkeypatch.setattr(runlog.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        KitError, match=r"training.trackers: .*found no wandb and no mlflow; pip install wandb mlflow"
    ):
        run_stage(
            tiny_config(tmp_path, training__trackers=["tensorboard", "wandb", "mlflow"]), "tokenizer", store
        )
    assert not (tmp_path / "run" / "tokenizer").exists()
    config = tiny_config(tmp_path, training__trackers=["tensorboard"], training__tokenizer_epochs=1)
    with caplog.at_level("INFO"):
        assert run_stage(config, "tokenizer", store) == "complete"
    assert caplog.text.count("tensorboard is not installed: no event file") == 1
    assert caplog.text.count("matplotlib is not installed") == 1
    assert (
        not (config.tokenizer_dir / "tensorboard").exists()
        and not (config.tokenizer_dir / "loss.png").exists()
    )


PREDICTOR: list[dict[str, Any]] = [
    {
        "kind": "validation",
        "step": 0,
        "loss": 2.0,
        "s1": 1.9,
        "s2": 2.1,
        "s1_uniform": 2.079,
        "s2_uniform": 2.079,
    },
    {"kind": "train", "step": 5, "loss": 1.9, "windows_per_s": 40.0},
    {"kind": "train", "step": 10, "loss": 1.8, "windows_per_s": 60.0},
    {
        "kind": "validation",
        "step": 10,
        "loss": 1.7,
        "s1": 1.6,
        "s2": 1.8,
        "s1_uniform": 2.079,
        "s2_uniform": 2.079,
    },
    {
        "kind": "validation",
        "step": 20,
        "loss": 1.8,
        "s1": 1.7,
        "s2": 1.9,
        "s1_uniform": 2.079,
        "s2_uniform": 2.079,
    },
]


def test_the_table_shows_start_best_last_and_what_knowing_nothing_costs(tmp_path: Path) -> None:
    """Keeps out an end without a verdict: what came of hours of training has to be read in one place."""
    best = {
        "step": 10,
        "value": 1.7,
        "metric": "loss",
        "values": {name: PREDICTOR[3][name] for name in ("loss", "s1", "s2")},
    }
    progress = Progress(step=20, best=best, start_value=2.0, seconds=4000)
    lines = table(tmp_path, "basemodel: complete", "loss", PREDICTOR, progress)
    assert lines[1].split() == [
        "validation",
        "(step)",
        "before",
        "best",
        "(10)",
        "last",
        "(20)",
        "knowing",
        "nothing",
    ]
    assert lines[2].split() == ["loss", "2", "1.7", "1.8", "2.079"]
    text = "\n".join(lines)
    assert "better than the pretrained" in text and "20 steps in 1:06:40, 50 windows/s" in text
    worse = dataclasses.replace(progress, start_value=1.5)
    assert "made it WORSE than the pretrained weights: best loss 1.7, before training 1.5" in "\n".join(
        table(tmp_path, "basemodel: complete", "loss", PREDICTOR, worse)
    )


def test_the_picture_has_both_curves_and_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out curves without the line that says whether anything was learnt."""
    from matplotlib.axes import Axes

    drawn: list[str] = []
    real_plot, real_line = Axes.plot, Axes.axhline
    monkeypatch.setattr(
        Axes, "plot", lambda *a, **k: drawn.append(f"{k['label']} {list(a[2])}") or real_plot(*a, **k)
    )
    monkeypatch.setattr(Axes, "axhline", lambda *a, **k: drawn.append(k["label"]) or real_line(*a, **k))
    runlog.draw(tmp_path, PREDICTOR, "loss")
    assert drawn == ["train [1.9, 1.8]", "validation [2.0, 1.7, 1.8]", "knowing nothing (2.08 nats)"]
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]
