"""What a launch says at its end: where things are, what to type next, and why a process was gone.

In: a plan, paths. Out: lines. Also which results of an earlier launch still stand.
"""

import shlex
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kronos import files, final, records
from kronos.config import Config, to_dict
from kronos.errors import KitError
from kronos.launch.arguments import ROOT
from kronos.launch.checks import SUBMISSIONS
from kronos.launch.plan import LaunchPlan

GIB = 2**30


# -- where things are ----------------------------------------------------------------------------------------
def places(plan: LaunchPlan, submission: Path | None, start: Path) -> list[str]:
    """A line for each kind of result that is there, with paths as seen from the user's folder `start`."""
    run = plan.config.run_dir
    folders = [plan.config.stage_dir(stage) for stage in plan.stages]
    named = {
        "Models": [folder / "best_model" for folder in folders],
        "Curves": [folder / "loss.png" for folder in folders],
        "Backtest": [run / "backtest" / "report.html"] if plan.leads else [],
        "Log": [plan.log_path],
        "Submission": [submission] if submission is not None else [],
    }
    lines = []
    for name, paths in named.items():
        there = [seen(path, start) for path in paths if path.exists()]
        if there:
            lines.append(f"  {name + ':':<13}{' '.join(there)}")
    return lines


def seen(path: Path, start: Path) -> str:
    """A path of the kit's folder, from the folder in which the user stands."""
    return str(path) if start == ROOT or path.is_absolute() else str(ROOT / path)


def next_command(plan: LaunchPlan, submission: Path | None, start: Path) -> str:
    """The command that follows, ready to be pasted."""
    config = plan.config
    given = ["--config", seen(plan.config_path, start)]
    if submission is None and config.data.test_path:
        words = ["scripts/make_submission.py", *given]
    elif submission is not None and is_competition(config):
        words = ["scripts/submit.py", *given, "--file", seen(submission, start), "--message", "what is new"]
    elif not config.market.generate and not config.data.test_path:
        words = ["scripts/forecast.py", *given]
    else:
        words = ["scripts/compare_runs.py", *given]
    words[0] = seen(Path(words[0]), start)
    return "  " + shlex.join([python(start), *words])


def python(start: Path) -> str:
    """How a shell calls this interpreter: the one that has the packages.

    A virtual environment's interpreter is a link to the one that it was made from, which lacks them: the
    folders are compared, too.
    """
    path = Path(sys.executable)
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and Path(found).samefile(path) and Path(found).parent.samefile(path.parent):
            return name
    return str(path.relative_to(ROOT)) if start == ROOT and path.is_relative_to(ROOT) else str(path)


def is_competition(config: Config) -> bool:
    """Whether the data are the competition's: downloaded by the kit, or in a folder that is called like it.
    Only its submissions can be sent to Kaggle."""
    data = config.data
    if config.market.generate or not data.test_path or not data.sample_submission_path:
        return False
    folder = Path(data.test_path).resolve().parent
    return (folder / "download.json").is_file() or config.inference.competition in folder.parts


# -- what an earlier launch left -----------------------------------------------------------------------------
def newer_than_networks(config: Config, path: Path, final_too: bool = False) -> bool:
    """Whether a result is there and was written after the networks that it is of. final_too: those of the
    final run among them, which a backtest never reads and a submission does.
    """
    used = [config.tokenizer_dir, config.basemodel_dir, config.head_dir]
    if final_too and config.experiment.final:
        used += [config.run_dir / final.FOLDER / folder.name for folder in used]
    summaries = [folder / "summary.json" for folder in used if (folder / "summary.json").is_file()]
    return path.is_file() and all(
        path.stat().st_mtime_ns > summary.stat().st_mtime_ns for summary in summaries
    )


@dataclass(frozen=True)
class _Manifest:
    """What matters here of a submission's manifest."""

    sha256: str
    config: dict[str, Any]


def known_submission(config: Config) -> Path | None:
    """The newest submission of these networks, decided under this backtest's calibration and with these
    settings.
    """
    backtest = config.run_dir / "backtest" / "report.json"
    manifests = sorted(SUBMISSIONS.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in manifests:
        if not newer_than_networks(config, path, final_too=True) or (
            backtest.is_file() and backtest.stat().st_mtime_ns > path.stat().st_mtime_ns
        ):
            return None
        try:
            manifest = records.read(path, _Manifest)
        except KitError:  # not a manifest of this kit's; the folder is the user's
            continue
        if _asked_alike(config, manifest.config) and _is_file(path.with_suffix(".csv"), manifest.sha256):
            return path.with_suffix(".csv")
    return None


def _asked_alike(config: Config, saved: dict[str, Any]) -> bool:
    """Whether a saved configuration forecasts the same rows with the same networks in the same way."""
    own = final.of_run(config)[0] if config.experiment.final else None
    now = to_dict(own or config)
    sections = ("data", "inference", "model_paths")
    return all(saved.get(section) == now[section] for section in sections)


def _is_file(path: Path, sha256: str) -> bool:
    return path.is_file() and files.digest(path) == sha256


# -- a process that is gone ----------------------------------------------------------------------------------
def killed(name: str, number: int, config: Config) -> str:
    """What it means that a process of a step ended by a signal, and how to go on."""
    try:
        said = signal.Signals(number).name
    except ValueError:
        said = f"signal {number}"
    if number == signal.SIGKILL:
        memory = psutil.virtual_memory()
        return (
            f"{name}: a process was killed from outside ({said}), most often by the system because main memory ran out "
            f"({memory.total / GIB:.1f} GiB here, {memory.available / GIB:.1f} GiB free now); set training.num_workers=0, fewer "
            "processes or a smaller training.batch_size if it happens again, and go on with the same command"
        )
    if number == signal.SIGBUS:
        return (
            f"{name}: a process lost a file that it was reading ({said}): the prepared data {config.data.store} were cut short, "
            f"or a disk or /dev/shm is full; remove {config.data.store} (it is made again), and go on with the same command"
        )
    return f"{name}: a process crashed ({said}); go on with the same command; if it happens again, try --cpu"
