"""One launch with a head and a final run, for real and tiny: what is trained, what is kept, what is left
out.
"""

import json
import re
from pathlib import Path

import pytest
from test_pipeline import check_submission, demo, launch

from kronos.errors import KitError
from kronos.launch.plan import plan_launch

HEAD = {
    "experiment.train_head": "true",
    "head.inputs": "tokens",
    "head.horizons": "[1, 5]",
    "head.stocks_per_date": "8",
    "head.validation_stocks": "8",
    "training.max_steps": "3",
    "evaluation.fitted_baselines": "false",
}


def settings(more: dict[str, str]) -> list[str]:
    return [word for key, value in more.items() for word in ("--set", f"{key}={value}")]


def titles(text: str) -> list[str]:
    return re.findall(r"^(?:Training|Final run): (\w+)$", text, flags=re.M)


@pytest.mark.long
def test_a_head_and_a_final_run_in_one_launch(root: Path, tmp_path: Path) -> None:
    """What trains once more on the newest days has to be what the submission takes, and only once."""
    words = demo(tmp_path, "--fast-mode", *settings(HEAD))
    first = launch(root, *words, "--skip-head")
    assert titles(first) == ["tokenizer", "basemodel"]
    run = tmp_path / "demo-fast"
    assert not (run / "head").exists() and not (run / "final").exists()
    whole = [*words, "--final", "--submit", "--set", "inference.answer=head"]
    text = launch(root, *whole)
    assert titles(text) == ["head", "tokenizer", "basemodel", "head"], text
    for stage in ("tokenizer", "basemodel", "head"):
        summary = json.loads((run / "final" / stage / "summary.json").read_text())
        chosen = json.loads((run / stage / "summary.json").read_text())
        assert summary["status"] == "complete" and summary["step"] == max(chosen["best"]["step"], 1)
        assert summary["train_end_session"] > chosen["train_end_session"]
    path = root / re.search(r"^  Submission: +(\S+)$", text, flags=re.M).group(1)  # type: ignore[union-attr]
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["answer"]["name"] == "head" and manifest["decision"]["used"]
    assert manifest["config"]["model_paths"]["base_save_path"] == str(run / "final")
    again = launch(root, *whole)
    assert titles(again) == [] and "final run: " in again and "nothing was trained or written" in again
    check_submission(text, root, tmp_path / "demo" / "sample_submission.csv")


def test_a_final_run_that_cannot_be_made_is_refused_before_training(tmp_path: Path) -> None:
    """It would end hours later."""
    given = ["experiment.final=true", f"model_paths.base_path={tmp_path}"]
    machines = {"num_machines": "2", "num_processes": "2", "main_process_port": "29500"}
    several = [f"distributed.{key}={value}" for key, value in machines.items()]
    for more, words in ((["training.scheduler=plateau"], "found plateau"), (several, "one machine, found 2")):
        with pytest.raises(KitError, match=words):
            plan_launch("configs/demo.yaml", [*given, *more], fast=False, wanted=None, gpus=0, write=False)
