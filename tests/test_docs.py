"""What the documents say can be done: every command is read by bash, parsed by its own script, and one of
each kind is run.
"""

import argparse
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_commands import Command, blocks, commands, pages
from kaggle_stub import Stub
from test_pipeline import demo, environment

from kronos import configfile
from kronos.data.sources.flags import with_flags
from kronos.errors import KitError
from kronos.launch import arguments as launcher

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDERS = {
    "F": "configs/demo.yaml",
    "P": "small",
    "B": "32",
}  # what stands in a document for a file of the reader's
MADE = ("runs/", "/")  # configurations that a run leaves
RUN_ELSEWHERE = {
    "scripts/check.sh": "this test runs in it",
    "scripts/settings_page.py": "tests/test_config.py",
    "scripts/gpu_check.sh": "tests/planning/test_gpu_check.py",
    "scripts/download_data.py": "tests/delivery/test_download.py",
    "scripts/bundle_offline.py": "tests/delivery/test_bundle.py",
    "scripts/bench/bench_data.py": "tests/test_docs.py: too large a share of the suite's time; its parser",
    "scripts/study/study_history_loss.py": "tests/test_docs.py: trains; its parser",
    "scripts/final_run.py": "tests/launch/test_final.py: trains; its parser",
    "scripts/forecast.py": "tests/outlook/test_outlook.py",
    "scripts/study/study_answers.py": "tests/evaluation/test_study_answers.py",
    "scripts/study/study_head.py": "tests/test_docs.py: needs trained heads; its parser",
    "scripts/study/study_portfolio.py": "tests/test_docs.py: fits for minutes; its parser",
    "scripts/study/study_anchor.py": "tests/test_docs.py: needs what the line above it trains; its parser",
    "scripts/study/study_decode_rope.py": "tests/test_docs.py: likewise; its parser",
    "scripts/worker.py": "tests/service/test_job_kills.py",
    "scripts/forecast_job.py": "tests/service/test_job_routes.py",
    "scripts/update_actuals.py": "tests/service/test_job_routes.py",
    "scripts/bench/bench_jobs.py": "tests/service/test_job_kills.py",
    "scripts/serve.py": "tests/service/test_service_docs.py",
    "scripts/bench/bench_service.py": "tests/service/test_service_docs.py: minutes; its parser",
    "scripts/check_model.py": "tests/delivery/test_deploy.py",
    "scripts/promote_model.py": "tests/delivery/test_deploy.py",
    "scripts/health_check.py": "tests/delivery/test_deploy.py",
    "scripts/deploy.sh": "tests/delivery/test_deploy.py",
    "scripts/rollback.sh": "tests/delivery/test_deploy.py",
    "kaggle/train_stage.py": "train_kaggle.sh runs it",
    "kaggle/launch.py": "train_kaggle.sh becomes it",
    "kaggle/session.py": "tests/launch/test_notebook.py",
}


PARSE_ONLY = """
import argparse, sys
parse = argparse.ArgumentParser.parse_args
argparse.ArgumentParser.parse_args = lambda self: sys.exit(parse(self) is None)
from kaggle.cli import main
main()
"""


class Parsed(Exception):
    """Carries a script's parser and what it made of its arguments out of the script."""

    def __init__(self, parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
        self.parser, self.given = parser, given


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> list[Command]:
    folder = tmp_path_factory.mktemp("documents")
    return [command for page in pages(ROOT) for command in commands(page, ROOT, folder)]


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts end when they have parsed their arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **more: Any) -> argparse.Namespace:
        raise Parsed(self, parse(self, *args, **more))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def parsed(script: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Parsed:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(Parsed) as found:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return found.value


# -- what they say -------------------------------------------------------------------------------------------
def test_commands_are_found(documented: list[Command]) -> None:
    """A test of every command is worth nothing when it finds none."""
    assert len(documented) > 50
    assert {"README.md", "docs/kaggle.md", "docs/troubleshooting.md"} <= {
        command.page for command in documented
    }
    assert any(command.synopsis for command in documented)


def test_scripts_take_what_the_documents_give_them(
    documented: list[Command],
    stopped: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A flag that was renamed, a configuration that moved, a setting that no longer exists."""
    for command in documented:
        if not command.script.endswith(".py"):
            continue
        assert (ROOT / command.script).is_file(), command
        if command.synopsis:
            actions = parsed_parser(command.script, monkeypatch)._option_string_actions
            assert {word for word in command.arguments if word.startswith("--")} <= set(actions), command
            continue
        arguments = tuple(PLACEHOLDERS.get(word, word) for word in command.arguments)
        try:
            given = vars(parsed(command.script, arguments, monkeypatch).given)
        except SystemExit:
            pytest.fail(f"{command}: {capsys.readouterr().err}")
        check_configuration(given.get("config"), given.get("overrides", []), command)


def parsed_parser(script: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser of a script, whatever its required arguments."""
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "error", lambda self, message: None)
        return parsed(script, (), patch).parser


def check_configuration(config: Any, overrides: list[str], command: Command) -> None:
    """The file is there and the overrides fit it; for one that a run leaves, the profile of the run's name
    stands.
    """
    if not isinstance(config, str):
        return
    path = ROOT / config
    if config.startswith(MADE):
        profile = ROOT / "configs" / f"{Path(config).parent.name}.yaml"
        path = profile if profile.is_file() else ROOT / "configs/kaggle.yaml"
    assert path.is_file(), f"{command}: there is no {config}"
    configfile.load(path, overrides)


def test_the_launcher_takes_what_the_documents_give_it(documented: list[Command]) -> None:
    """The same for the launcher, whose flags become settings."""
    lines = [command for command in documented if command.script == "train_kaggle.sh"]
    assert len(lines) > 10
    known = {flag for action in launcher.parser()._actions for flag in action.option_strings}
    for command in lines:
        if command.synopsis:
            unknown = [word for word in command.arguments if word.startswith("--") and word not in known]
            assert not unknown, f"{command}: {unknown} is not known"
            continue
        try:
            flags = launcher.parse([word for word in command.arguments if word not in ("-h", "--help")], ROOT)
        except KitError as error:
            raise AssertionError(f"{command}: {error}") from error
        assert flags is not None
        config = (
            str(flags.config.relative_to(ROOT)) if flags.config.is_relative_to(ROOT) else str(flags.config)
        )
        given = [text for text in flags.overrides if f"--set {text}" in " ".join(command.arguments)]
        given = with_flags(
            ROOT / "configs" / "kaggle.yaml", given, flags.data_source, flags.skip_data_process
        )
        check_configuration(PLACEHOLDERS.get(config, config), given, command)


def test_settings_and_profiles_that_are_named_exist() -> None:
    """`training.batch_size` in a sentence or a table is looked up by its reader, too."""
    known = {name for name, _ in configfile._known()}
    sections = {name.split(".")[0] for name in known}
    for page in pages(ROOT):
        text = sentences(page)
        for given in re.findall(r"`[^`]*?--set [^`]+`", text):
            overrides = re.findall(r"--set (\S+=[^\s`]*)", given)
            configfile.load(ROOT / "configs" / "kaggle.yaml", overrides)
        for name in re.findall(r"`([a-z_]+\.[a-z_]+(?:\.[a-z_]+)?)(?:[:=][^`]*)?`", text):
            if name.split(".")[0] in sections and not name.endswith((".py", ".json", ".md", ".yaml")):
                modules = ROOT / "kronos" / (name.replace(".", "/") + ".py")
                assert name in known or modules.is_file(), f"{page.name}: there is no setting {name}"


def test_links_lead_somewhere() -> None:
    """A page that is not there, a heading that was renamed."""
    for page in pages(ROOT):
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", sentences(page)):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            aim = (page.parent / path).resolve() if path else page
            assert aim.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(aim), f"{page.name}: {target}"


def sentences(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_task_pages_are_there_and_linked() -> None:
    """One page a task, reachable from the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (
        "data",
        "training",
        "forecasting",
        "evaluation",
        "kaggle",
        "troubleshooting",
        "findings",
        "architecture",
    ):
        assert (ROOT / "docs" / f"{name}.md").is_file() and f"(docs/{name}.md)" in readme


@pytest.mark.slow
def test_kaggles_own_client_takes_the_lines(documented: list[Command], stub: Stub) -> None:
    """`kaggle kernels push -p`, ...: the flags are those of the installed client."""
    lines = sorted({command.words for command in documented if command.words[0] == "kaggle"})
    assert {words[1:3] for words in lines} == {
        ("competitions", "submit"),
        ("datasets", "create"),
        ("kernels", "push"),
    }
    for words in lines:
        done = subprocess.run(
            [sys.executable, "-c", PARSE_ONLY, *words[1:]], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"


# -- what they do --------------------------------------------------------------------------------------------
def run(script: str, *arguments: object, cwd: Path = ROOT) -> str:
    program = [sys.executable] if script.endswith(".py") else ["bash"]
    command = [*program, str(ROOT / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{script} {arguments}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a small run of the launcher, from elsewhere; its configuration is `run.json`."""
    base = tmp_path_factory.mktemp("a reader's folder")
    small = [
        "training.tokenizer_epochs=1",
        "training.basemodel_epochs=1",
        "training.max_steps=4",
        "training.validation_samples=32",
    ]
    small += [
        "training.batch_size=8",
        "inference.sample_count=3",
        "evaluation.after_training=false",
        "evaluation.origins=3",
    ]
    small += [
        "evaluation.every=null",
        "evaluation.random_init=false",
        "evaluation.draws=200",
        "evaluation.fitted_baselines=false",
    ]
    sets = [part for text in small for part in ("--set", text)]
    config = ROOT / "configs" / "demo.yaml"
    shown = run("train_kaggle.sh", "--cpu", *demo(base, *sets), "--config", config, cwd=base)
    assert "Done in" in shown and str(ROOT / "scripts" / "make_submission.py") in shown
    resolved = next((base / "demo" / "logs").glob("*.json"))
    (base / "run.json").write_text(resolved.read_text())
    yield base


def executed(base: Path) -> dict[str, list[object]]:
    """{script: the arguments of a documented command, in a size that takes seconds}. In the order of a user's
    day.
    """
    config = ["--config", base / "run.json"]
    return {
        "kaggle/prepare_data.py": [*config, "--report"],
        "scripts/plan_run.py": [*config, "--no-probe"],
        "scripts/settings_page.py": ["--check"],
        "scripts/run_backtest.py": config,
        "scripts/run_portfolio.py": [*config, "--topk", "3", "--drop", "1", "--output", base / "portfolio"],
        "scripts/make_submission.py": [*config, "--output", base / "s.csv"],
        "scripts/score_submission.py": [*config, "--file", base / "s.csv"],
        "scripts/submit.py": [
            *config,
            "--file",
            base / "s.csv",
            "--message",
            "m",
            "--dry-run",
            "--ledger",
            base / "ledger.csv",
        ],
        "scripts/compare_runs.py": config,
        "scripts/package_model.py": ["--run", base / "demo", "--output", base / "models"],
        "scripts/study/study_enumeration.py": [
            *config,
            "--origins",
            "4",
            "--most",
            "300",
            "--set",
            "data.test_ratio=0.1",
        ],
        "scripts/bench/bench_windows.py": [
            "--seconds",
            "1",
            "--rows",
            "20000",
            "--tickers",
            "10",
            "--frames",
            "2",
            "--workers",
            "0",
            "--batch",
            "2",
        ],
        "scripts/bench/bench_generate.py": [
            "--preset",
            "nano",
            "--series",
            "2",
            "--paths",
            "3",
            "--scenario",
            "40+4",
        ],
        "scripts/bench/bench_train.py": [
            "--preset",
            "nano",
            "--batch",
            "2",
            "--window",
            "33",
            "--pairs",
            "1",
            "--cpu",
        ],
        "train_kaggle.sh": ["--config", base / "run.json", "--cpu", "--skip-existing", "--dry-run"],
    }


@pytest.mark.slow
def test_every_script_of_the_documents_runs(trained: Path, documented: list[Command]) -> None:
    """A line that parses and then fails is the first thing that a reader tries."""
    table = executed(trained)
    scripts = {command.script for command in documented} - {""}
    assert scripts <= set(table) | set(RUN_ELSEWHERE), "say here, or in RUN_ELSEWHERE, how these are run"
    for script, arguments in table.items():
        assert run(script, *arguments)
    assert (trained / "demo" / "backtest" / "report.html").is_file()
    assert (trained / "models" / "demo" / "latest" / "README.md").is_file()
    assert json.loads((trained / "s.json").read_text())["rows"] == 12
    checked = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "tests/data_checks",
        "--data",
        trained / "demo-data" / "train.csv",
    ]
    checked[-1] = json.loads((trained / "run.json").read_text())["data"]["data_path"]
    done = subprocess.run(
        list(map(str, checked)), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout


def test_what_runs_elsewhere_does(documented: list[Command]) -> None:
    """A name in a list is no test."""
    for script, where in RUN_ELSEWHERE.items():
        assert (ROOT / script).is_file()
        if (ROOT / where).is_file():
            text = (ROOT / where).read_text(encoding="utf-8")
            assert Path(script).stem.split("_")[0] in text


@pytest.mark.slow
def test_python_of_the_pages_runs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's, and that of docs/data.md and docs/kaggle.md; docs/forecasting.md has a test of its
    own.
    """
    monkeypatch.chdir(trained)
    (trained / "runs").mkdir(exist_ok=True)
    links = {"runs/demo": "demo", "runs/stores/NAME": "store", "models/kaggle": "models/demo"}
    for link, target in links.items():
        (trained / link).parent.mkdir(parents=True, exist_ok=True)
        (trained / link).symlink_to(trained / target)
    if not (trained / "models" / "demo").exists():
        run("scripts/package_model.py", "--run", trained / "demo", "--output", trained / "models")
    count = 0
    for page in pages(ROOT):
        if page.name != "forecasting.md":
            for block in blocks(page.read_text(encoding="utf-8"), "python"):
                exec(compile(block, page.name, "exec"), {})
                count += 1
    assert count >= 3


# -- the README in Chinese -----------------------------------------------------------------------------------
def shape(page: Path) -> dict[str, Any]:
    """What two languages share: levels of headings, fenced blocks, links, inline code, and the size of each
    table.
    """
    text, prose = page.read_text(encoding="utf-8"), sentences(page)
    tables = re.findall(r"(?:^\|.*\n)+", prose, flags=re.MULTILINE)
    links = {target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if not target.startswith("README")}
    return {
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", prose, flags=re.MULTILINE)],
        "blocks": re.findall(r"^ *```\w*\n.*?^ *```", text, flags=re.MULTILINE | re.DOTALL),
        "links": sorted(links),
        "code": sorted(set(re.findall(r"`[^`\n]+`", prose))),
        "steps": re.findall(r"^\d+\. ", prose, flags=re.MULTILINE),
        "tables": [(table.count("\n"), table.count("|")) for table in tables],
        "figures": sorted(set(re.findall(r"\d[\d.,]*\d", prose))),
    }


def test_both_readmes_say_the_same() -> None:
    """A command that was mended in one language only."""
    english, chinese = shape(ROOT / "README.md"), shape(ROOT / "README.zh-CN.md")
    for part, value in english.items():
        assert chinese[part] == value, f"README.zh-CN.md: {part} differ from README.md"
    assert len(english["blocks"]) >= 8 and len(english["headings"]) >= 6
