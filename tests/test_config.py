"""Configuration: every problem is reported at once with the nearest right key; every profile in the tree
loads.
"""

import dataclasses
import functools
import json
import logging
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from kronos import config as settings
from kronos import configfile
from kronos.config import Config, from_dict, to_dict
from kronos.config_gone import GONE
from kronos.errors import KitError

SCRATCH = ["experiment.pre_trained=false", "data.data_path=train.csv"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return write(tmp_path / "c.yaml", "")


def problems(path: Path, *overrides: str) -> str:
    with pytest.raises(KitError) as caught:
        configfile.load(path, overrides)
    return str(caught.value)


def test_every_profile_in_the_tree_loads(root: Path) -> None:
    """A profile with a key that no longer exists would fail on a user's machine only."""
    profiles = sorted((root / "configs").glob("*.yaml"))
    assert {"demo.yaml", "kaggle.yaml", "kaggle_quick.yaml", "kaggle_refine.yaml"} <= {
        p.name for p in profiles
    }
    for profile in profiles:
        configfile.load(profile)


def test_profiles_state_only_differences(root: Path) -> None:
    """A default repeated in a profile hides which settings a profile is about, and goes stale."""
    defaults = settings.to_dict(Config())
    for profile in (root / "configs").glob("*.yaml"):
        for section, values in configfile._read(profile).items():
            same = [k for k, v in values.items() if not isinstance(v, dict) and defaults[section][k] == v]
            assert not same, f"{profile.name}: {section}.{same} repeats the default"


def test_the_guides_defaults() -> None:
    """The guide's values are the contract with its readers."""
    c = Config()
    assert (c.data.lookback_window, c.data.predict_window, c.data.max_context, c.data.clip) == (
        256,
        1,
        512,
        5.0,
    )
    assert (
        c.data.train_ratio,
        c.data.val_ratio,
        c.training.tokenizer_epochs,
        c.training.basemodel_epochs,
    ) == (0.9, 0.1, 20, 15)
    assert (
        c.training.batch_size,
        c.training.tokenizer_learning_rate,
        c.training.predictor_learning_rate,
    ) == (32, 2e-4, 4e-5)


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    """Mending one problem per attempt wastes a user's evening."""
    path = write(
        tmp_path / "c.yaml",
        "data: {lookback: 3, norm_epsilon: abs}\ntraining: {batch_size: lots, seed: .inf}\n",
    )
    text = problems(path, "trainng.epochs=3", "training.num_workers=-1")
    for part in (
        "data.lookback (did you mean data.lookback_window?)",
        "norm_epsilon: expected 'absolute' or 'relative', found 'abs'",
        "batch_size: expected integer, found 'lots'",
        "training.seed",
        "unknown key trainng.epochs (did you mean training.",
    ):
        assert part in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.train_ratio=0.95", "expected at most 1"),
        ("data.val_ratio=0", "best model is chosen"),
        ("data.val_ratio=null", "data.val_ratio: expected a share, found null"),
        (
            "data.train_until=2020-02-30",
            "data.train_until: expected a date as YYYY-MM-DD, found '2020-02-30'",
        ),
        ("data.validation_days=0", "data.validation_days: expected 1 to"),
        (
            "data.test_days=20",
            "data.test_days: expected data.validation_days or data.train_until beside it, found neither",
        ),
        ("data.lookback_window=600", "max_context"),
        ("data.embargo=0", "at least predict_window"),
        ("training.batch_size=0", "expected 1 to 100000, found 0"),
        ("training.windows_per_step=0", "expected 1 to 10000000, found 0"),
        ("data.cleaning.max_gap=-1", "expected 0 to"),
        ("inference.top_p=1.5", "expected 0 to 1"),
        ("experiment.pre_trained_predictor=true", "pretrained_predictor"),
        ("distributed.machine_rank=1", "machine_rank"),
        ("lookback=3", "expected section.key=value"),
        ("data.lookback_window.x=3", "unknown key"),
    ],
)
def test_impossible_settings_are_refused(empty: Path, override: str, expected: str) -> None:
    """A combination that cannot work must not surface hours later."""
    assert expected in problems(empty, *SCRATCH, override)


@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ("training.accumulation_steps=2", "accumulation_steps: expected 1 beside training.windows_per_step"),
        ("distributed.num_processes=9", "at least one window for each of 9 processes, found 8"),
    ],
)
def test_the_windows_of_a_step_are_said_once(empty: Path, beside: str, expected: str) -> None:
    """Two settings that both fix the step must not be multiplied in silence."""
    assert expected in problems(empty, *SCRATCH, "training.windows_per_step=8", beside)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            "train_ratio: 0.9",
            "validation_days: 250",
            "data.train_ratio and data.validation_days: .* found both",
        ),
        ("test_ratio: 0.0", "train_until: 2019-12-31", "data.test_ratio and data.train_until: .* found both"),
        (
            "train_until: 2019-12-31",
            "validation_days: 250",
            "one of them to end the training part, found both",
        ),
        (
            "validation_days: 250\n  test_days: 9",
            "validation_until: 2019-12-31",
            "one of them to end the validation part",
        ),
    ],
)
def test_two_ways_to_cut_history_are_refused(tmp_path: Path, first: str, second: str, expected: str) -> None:
    """Whichever of the two won, the user would not learn that the other was ignored; defaults are not the
    user's.
    """
    text = problems(write(tmp_path / "c.yaml", f"data:\n  {first}\n  {second}\n"), *SCRATCH)
    assert re.search(expected, text) and "\n" not in text


def test_parts_by_days_take_the_place_of_the_shares(tmp_path: Path) -> None:
    """A resolved configuration that still names shares would be refused when it is read again."""
    path = write(tmp_path / "c.yaml", "data:\n  train_until: 2019-12-31\n  validation_until: 2020-12-31\n")
    config = configfile.load(path, SCRATCH)
    assert (config.data.train_until, config.data.train_ratio, config.data.val_ratio) == (
        "2019-12-31",
        None,
        None,
    )
    resolved = write(tmp_path / "pipeline_config.json", json.dumps(settings.to_dict(config)))
    assert configfile.load(resolved) == config == settings.from_dict(settings.to_dict(config))


@pytest.mark.parametrize(
    "override",
    [
        "training.seed=9223372036854775808",
        "inference.seed=1e30",
        "data.lookback_window=1",
        "training.batch_size=100000000000",
        "training.accumulation_steps=1000000000",
        "inference.sample_count=100000000",
        "evaluation.draws=100000000000",
        "training.num_workers=100000000",
        "distributed.main_process_port=70000",
        "market.days=1000000000",
        "training.max_steps=99999999999999999999",
        "head.horizons=[5,1000000000000]",
    ],
)
def test_absurd_values_are_refused(empty: Path, override: str) -> None:
    """They passed a dry run and ended in tracebacks or filled the memory (accumulation 1e9: 22 GB, deaf to
    SIGTERM).
    """
    assert f"{override.partition('=')[0]}: expected " in problems(empty, *SCRATCH, override)


def test_every_whole_number_has_an_upper_bound(empty: Path) -> None:
    """A setting that is added without one would be found out by a full memory."""
    names = [name for name, hint in configfile._known() if re.search(r"\bint\b", str(hint))]
    names = [name for name in names if name not in ("data.columns", "head.horizons")]  # a table and a list
    found = problems(empty, *SCRATCH, *(f"{name}=1000000000000000000" for name in names))
    assert len(names) > 50 and [name for name in names if f"{name}: expected " not in found] == []


def test_a_step_has_an_upper_bound(empty: Path) -> None:
    """Each of the three numbers may be large, not all together."""
    large = ["training.batch_size=100000", "training.accumulation_steps=1000"]
    assert "expected at most 10,000,000, found 100,000,000" in problems(empty, *SCRATCH, *large)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../../x",
        "/tmp/x",
        "a/b",
        "stores",
        "Stores",
        "a\nlog=x",
        "x\0y",
        "x" * 240,
        " a",
        "-rf",
        ".hidden",
        "~root",
    ],
)
def test_a_run_is_called_by_the_name_of_one_folder(empty: Path, name: str) -> None:
    """Written elsewhere, among the stores, or a failure after hours."""
    text = problems(empty, *SCRATCH, f"model_paths.exp_name={json.dumps(name)}")
    assert "model_paths.exp_name: expected the name of one folder" in text and "\n" not in text


@pytest.mark.parametrize(
    "name", ["basemodel", "BaseModel", "logs", "backtest", "pipeline_config.json", "a/b"]
)
def test_the_folders_of_a_run_have_names_of_their_own(empty: Path, name: str) -> None:
    """tokenizer_save_name=basemodel: the predictor wrote over the trained tokenizer."""
    assert "_save_name: expected" in problems(empty, *SCRATCH, f"model_paths.tokenizer_save_name={name}")


def test_ordinary_names_are_taken(empty: Path) -> None:
    """Letters of any script, spaces, points and dates are no danger."""
    for name in ("sp500", "v1.2_2026-11-28", "my run", "上证50", "stores-2"):
        assert configfile.load(empty, [*SCRATCH, f"model_paths.exp_name={name}"]).run_dir.name == name


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "an alias inside of an alias"),
        ("data: {? [1, 2] : 3}\n", "expected a word as a key"),
        ("3: {seed: 1}\n", "expected a word as a key"),
        ("training: {seed: " + "9" * 5000 + "}\n", "not readable as configuration"),
        ("training: " + "[" * 5000 + "\n", "too many brackets"),
        ("#" * (2**20 + 1), "at most 1,048,576 bytes"),
        ("training:\ntraning:\n", "unknown key traning"),
        ("data: {cleaning: {}, claening: {}}\n", "unknown key data.claening"),
    ],
)
def test_hostile_text_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    """Tracebacks, a full memory, or an unknown section that nobody heard of because it was empty."""
    found = problems(write(tmp_path / "c.yaml", text))
    assert words in found and "\n" not in found and len(found) < 600


def test_aliases_repeat_values(tmp_path: Path) -> None:
    """What a user writes with YAML's own means is still read."""
    text = "training: {tokenizer_learning_rate: &rate 1.0e-4, predictor_learning_rate: *rate}\n"
    assert configfile.load(write(tmp_path / "c.yaml", text), SCRATCH).training.predictor_learning_rate == 1e-4


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    """YAML keeps the last of two equal keys and loses the first silently."""
    assert "written twice" in problems(write(tmp_path / "c.yaml", "training:\n  seed: 1\n  seed: 2\n"))


@pytest.mark.parametrize("text", ["- a\n", "data: 3\n", "data: [\n", "\tx: 1\n"])
def test_text_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    """A parser's traceback is no answer."""
    path = write(tmp_path / "c.yaml", text)
    assert str(path) in problems(path)


def test_a_missing_file_names_its_neighbours(empty: Path) -> None:
    """The usual cause is a typing error in the name."""
    assert "c.yaml" in problems(empty.with_name("d.yaml"))


def test_json_is_read_and_a_resolved_configuration_loads_again(tmp_path: Path, empty: Path) -> None:
    """A run's saved configuration must reproduce the run."""
    first = configfile.load(
        empty, [*SCRATCH, "training.predictor_learning_rate=2e-5", "data.cleaning.jump=split"]
    )
    saved = write(tmp_path / "saved.json", json.dumps(settings.to_dict(first)))
    assert configfile.load(saved) == first == settings.from_dict(json.loads(saved.read_text()))
    assert first.training.predictor_learning_rate == 2e-5


def test_empty_paths_are_derived(empty: Path) -> None:
    """One owner per path: scripts that each derive a path drift apart."""
    config = configfile.load(empty, [*SCRATCH, "model_paths.base_path=out", "model_paths.exp_name=x"])
    assert config.run_dir == Path("out/x")
    assert config.model_paths.finetuned_tokenizer == str(Path("out/x/tokenizer/best_model"))
    assert config.experiment.name == "x"
    kept = configfile.derived_paths(
        replace(config, model_paths=replace(config.model_paths, base_save_path="own"))
    )
    assert kept.run_dir == Path("own")


def test_every_path_setting_knows_the_home_folder(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ~ that some readers expand and others do not: two files, or none, behind one setting."""
    monkeypatch.setenv("HOME", "/home/me")
    words = {
        "exp_name",
        "tokenizer_save_name",
        "basemodel_save_name",
        "head_save_name",
        "timezone",
        "name",
        "description",
        "main_process_ip",
        "competition",
        "answer",
        "pretrained_tokenizer_revision",
        "pretrained_predictor_revision",
        "pool",
        "begin",
        "end",
    }
    texts = [
        name
        for name, hint in configfile._known()
        if hint in (str, str | list[str]) and name.split(".")[-1] not in words
    ]
    assert set(texts) == {
        f"{section}.{name}" for section, names in configfile.PATHS.items() for name in names
    }
    for name in texts:
        reader = ["source.name=mine", "data.data_path="] if name.startswith("source.") else []
        found = functools.reduce(
            getattr, name.split("."), configfile.load(empty, [*SCRATCH, *reader, f"{name}=~/x/y"])
        )
        assert found == "/home/me/x/y", name
    given = configfile.load(
        empty, [*SCRATCH, "data.data_path=[~/a.csv, b//~c.csv]", "model_paths.base_path=~/"]
    )
    assert given.data.data_path == ["/home/me/a.csv", "b//~c.csv"] and given.run_dir == Path(
        "/home/me/kronos"
    )
    assert given.data.store.startswith("/home/me/stores/")
    assert "data.store: expected a path, found ~nobody-like-this/x" in problems(
        empty, *SCRATCH, "data.store=~nobody-like-this/x"
    )


def test_a_saved_configuration_of_another_version_is_refused() -> None:
    """A key that this version does not know must not be dropped silently."""
    with pytest.raises(KitError, match="another version"):
        settings.from_dict({"data": {"gone": 1}})


@pytest.mark.parametrize("old", ["temperature", "platt", "isotonic"])
def test_a_value_that_went_is_read_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, old: str
) -> None:
    """A run of last month must not be unreadable because its kind of calibration went."""
    caplog.set_level(logging.INFO)
    tree = to_dict(Config())
    tree["evaluation"]["calibration"] = old
    assert from_dict(tree) == Config()
    assert "settings that went are left out, their values still hold: evaluation.calibration" in caplog.text
    (tmp_path / "old.yaml").write_text(f"evaluation:\n  calibration: {old}\n")
    assert configfile.load(tmp_path / "old.yaml", SCRATCH).inference.calibration == "auto"
    with pytest.raises(
        KitError, match=r"evaluation\.calibration: expected no such setting any more, found 'off'"
    ):
        configfile.load(tmp_path / "old.yaml", [*SCRATCH, "evaluation.calibration=off"])


@pytest.mark.parametrize("name", GONE)
def test_a_setting_that_went_is_read_said_and_never_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A saved run must stay readable, and a wish that nothing fulfils must not be dropped silently."""
    caplog.set_level(logging.INFO)
    gone, (section, key) = GONE[name], name.split(".")
    tree = to_dict(Config())
    assert key not in tree[section], "it is still there"
    values = gone.values or (1,)
    tree[section][key] = values[0]
    assert from_dict(tree) == Config()
    assert name in caplog.text
    (tmp_path / "own.json").write_text(json.dumps({section: {key: values[0]}}))
    assert configfile.load(tmp_path / "own.json", SCRATCH)
    if not gone.values:
        return
    caplog.clear()
    tree[section][key] = "something else"
    assert from_dict(tree) == Config()
    assert f"{name}: expected no such setting any more, found 'something else'; {gone.now}" in caplog.text
    with pytest.raises(KitError, match="expected no such setting any more") as refused:
        configfile.load(tmp_path / "own.json", [*SCRATCH, f"{name}=something else"])
    assert gone.now in str(refused.value)


def test_the_page_of_settings_is_the_codes() -> None:
    """docs/settings.md names every setting with its default and its meaning."""
    script = Path(__file__).resolve().parents[1] / "scripts" / "settings_page.py"
    page = runpy.run_path(str(script))
    text = (script.parents[1] / "docs" / "settings.md").read_text(encoding="utf-8")
    assert text == page["page"](), "run python scripts/settings_page.py"
    for name, kind in page["sections"]():
        words = page["meanings"](kind)
        for field in dataclasses.fields(kind):
            if field.name != "cleaning":
                assert f"* `{field.name}`: " in text
                assert words.get(field.name), f"{name}.{field.name} has no text in the code"
