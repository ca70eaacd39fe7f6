"""What trains together belongs together: processes, data and settings, the two stages. A difference is one
line at the start.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import tiny_config, tiny_store

from kronos.config import PART_DAYS, Config
from kronos.data.store import BarStore, settings_of
from kronos.data.store_writer import write_store
from kronos.errors import KitError
from kronos.training.stages import run_stage

ROOT = Path(__file__).resolve().parents[2]

UNLIKE = """
import os, sys, time
from pathlib import Path
from kronos import cli
from kronos.training import facts, stages
from tiny import tiny_config
from training_worker import spawn, wait

folder = Path(sys.argv[1])
CASES = {
    "store": {"data__store": str(folder / "other")},
    "rate": {"training__tokenizer_learning_rate": 2e-3},
    "batch": {"training__batch_size": 2},
    "version": {},
}

def act(case, rank):
    both = {"distributed__num_processes": 2}
    config = tiny_config(folder, **both, **(CASES[case] if rank else {}))
    if case == "version" and rank:
        facts.kit_version = lambda: "another"
    compare = facts.unlike
    def compared(everyone):
        (folder / f"{case}.{rank}").write_text(str(time.time()))
        return compare(everyone)
    facts.unlike = compared
    log = os.open(folder / f"{case}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stderr.fileno())
    cli.run(lambda: stages.train(config, "tokenizer"))

for case in CASES:
    codes = wait(spawn(2, lambda rank: act(case, rank)))
    began = min(float(path.read_text()) for path in folder.glob(f"{case}.[01]"))
    print(case, sorted(codes))
    print("seconds", time.time() - began)
"""


@pytest.mark.slow
def test_processes_that_differ_end_at_once_with_one_line(tmp_path: Path) -> None:
    """Defect 4: another store ended `complete`, another rate diverged silently, another batch hung for half
    an hour.
    """
    tiny_store(tmp_path / "store")
    tiny_store(tmp_path / "other", seed=1)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", UNLIKE, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split(" ", 1)[1] for line in done.stdout.splitlines() if "[" in line] == ["[0, 2]"] * 4, (
        done.stdout
    )
    seconds = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds")]
    assert len(seconds) == 4 and max(seconds) < 10, "every process ends within 10 seconds of the comparison"
    expected = {
        "store": "has data ",
        "rate": "has learning_rate 0.002",
        "batch": "has training.batch_size 2",
        "version": "has kit version 'another'",
    }
    for case, words in expected.items():
        text = (tmp_path / f"{case}.err").read_text()
        assert text.count("error: ") == 1 and f"found: rank 1 {words}" in text, text
    assert not (tmp_path / "run" / "tokenizer").exists()


def remade(config: Config, store: BarStore, **settings: object) -> BarStore:
    """The store's content again, as if prepared with these settings."""
    arrays = {name: getattr(store, name) for name in ("bars", "session", "sessions", "offsets", "segments")}
    return write_store(
        config.data.store,
        **arrays,
        tickers=store.tickers,
        manifest={"settings": settings_of(config) | settings},
    )


def test_every_setting_of_the_data_is_known_to_the_store_or_changes_none_of_it() -> None:
    """Defect 3: two runs that differ in a setting that the store does not know would share one."""
    after = {"test_path", "sample_submission_path", "solution_path", "store", "max_context", "clip"}
    after |= {"lookback_window", "predict_window", "norm_epsilon", "embargo", "all_days", "ticker_weighting"}
    after |= {"train_ratio", "val_ratio", "test_ratio", *PART_DAYS}
    by_digest = {"data_path", "pool_path"}
    config = Config()
    names = {field.name for field in dataclasses.fields(config.data)}
    assert names - after - by_digest == set(settings_of(config)), (
        "does a new setting change what is prepared?"
    )
    cleaning = {field.name for field in dataclasses.fields(config.data.cleaning)}
    assert set(settings_of(config)["cleaning"]) == cleaning


def test_a_store_of_other_settings_is_refused(tmp_path: Path) -> None:
    """Defect 3: another run's preparation replaced the store between two stages, and the predictor trained on
    it.
    """
    config = tiny_config(tmp_path)
    store = remade(config, tiny_store(tmp_path / "store"))
    assert run_stage(config, "tokenizer", store) == "complete"
    other = remade(config, store, frequency="weekly")
    with pytest.raises(KitError, match=r"data\.frequency: saved 'weekly', now 'auto'") as caught:
        run_stage(config, "basemodel", other)
    assert "\n" not in str(caught.value) and not (config.basemodel_dir / "summary.json").exists()


def test_the_predictor_trains_on_the_data_of_its_tokenizer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Defect 3: prices that were replaced between the two stages."""
    config = tiny_config(tmp_path)
    run_stage(config, "tokenizer", tiny_store(tmp_path / "store"))
    other = tiny_store(tmp_path / "other", seed=1)
    with pytest.raises(
        KitError, match="the tokenizer was trained with other data than the predictor is: data: saved"
    ):
        run_stage(config, "basemodel", other)
    assert run_stage(tiny_config(tmp_path, experiment__skip_existing=True), "basemodel", other) == "complete"
    assert "the tokenizer was trained with other data" in caplog.text
