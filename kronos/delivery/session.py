"""A notebook session on Kaggle: from what is attached to a configuration that runs there and resumes next
time.

In: the input folder (read-only) and the output folder (kept when the run completes), a profile. Out:
OUTPUT/session.json, a resolved configuration with the paths of this session, and one line for everything that
was found or not. The previous version's output, attached as an input, is copied back so that
training goes on where it stopped.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from kronos import configfile, files, records
from kronos.config import Config, to_dict
from kronos.delivery.package_facts import METADATA
from kronos.delivery.package_metadata import NETWORKS
from kronos.errors import KitError
from kronos.networks.hub import CONFIG_FILE, WEIGHTS_FILE

log = logging.getLogger(__name__)

DEPTH = 8
"""Folders below the input folder that are looked into: Kaggle mounts a data set some levels deep, a model
six.
"""
CLOSED = ("train_kaggle.sh", "pipeline_config.json")
"""A folder with one of these is not looked into: the kit (whose tests have networks of their own), or an
earlier run.
"""
SESSION_HOURS, LAST_HOURS = 12, 0.5
"""What a session of Kaggle's lasts, and what is kept of it for the submission: the backtest may take what
training leaves.
"""


def write_session(
    inputs: str | Path,
    output: str | Path,
    profile: str | Path,
    overrides: Sequence[str],
    *,
    hours: float,
    gpus: int,
) -> Path:
    """Write the session's configuration. Returns its path.

    hours: of training, below what the session lasts. gpus: those of this machine, one process each.
    `overrides` win over everything found. Raises KitError naming what is not attached.
    """
    inputs, output = Path(inputs), Path(output)
    base = configfile.load(profile, overrides)
    found = [*_machine(output, hours, gpus), *_data(inputs, base), *_model(inputs, base)]
    config = configfile.load(profile, [*found, *overrides])
    _restore(inputs, config)
    path = output / "session.json"
    files.write_json(path, to_dict(config))
    log.info("configuration: %s", path)
    return path


def _data(inputs: Path, config: Config) -> Iterator[str]:
    """The competition's files: one folder that holds them all, by the names that the profile gives them."""
    given = config.data.data_path
    if isinstance(given, list):
        raise KitError(
            "data.data_path: expected one file for a session, found a list; give --set data.data_path=FILE"
        )
    wanted = {"data_path": given, "test_path": config.data.test_path}
    wanted |= {key: getattr(config.data, key) for key in ("sample_submission_path", "solution_path")}
    names = {key: Path(path).name for key, path in wanted.items() if path}
    required = [name for key, name in names.items() if key != "solution_path"]
    folder = next((f for f in _folders(inputs) if all((f / name).is_file() for name in required)), None)
    if folder is None:
        raise KitError(
            f"{inputs}: expected a folder with {', '.join(required)}, found none; attach the competition's data"
        )
    log.info("competition files: %s", folder)
    yield "market.generate=false"  # inputs are read-only
    for key, name in names.items():
        if (folder / name).is_file():
            yield f"data.{key}={json.dumps(str(folder / name))}"


def _model(inputs: Path, config: Config) -> Iterator[str]:
    """The pretrained networks that are needed: those of one packaged model, or of folders that are told apart
    by content.

    Nothing is looked for where the configuration names a folder that is there.
    """
    paths = config.model_paths
    named = {
        "tokenizer": paths.pretrained_tokenizer if config.tokenizer_is_pretrained else "",
        "predictor": paths.pretrained_predictor if config.predictor_is_pretrained else "",
    }
    wanted = {kind: source for kind, source in named.items() if source and not Path(source).is_dir()}
    package = _package(inputs) if wanted else None
    found = {
        kind: package / kind if package else _network(inputs, kind, source) for kind, source in wanted.items()
    }
    bits = {
        kind: [_settings(folder).get(key) for key in ("s1_bits", "s2_bits")] for kind, folder in found.items()
    }
    if len(found) == 2 and bits["tokenizer"] != bits["predictor"]:
        raise KitError(
            f"{found['tokenizer']} and {found['predictor']}: expected networks of equal (s1_bits, s2_bits), found "
            f"{bits['tokenizer']} and {bits['predictor']}; attach the tokenizer that the predictor was trained with"
        )
    for kind, folder in found.items():
        log.info("pretrained %s: %s, for %s", kind, folder, wanted[kind])
        yield f"model_paths.pretrained_{kind}={json.dumps(str(folder))}"


def _package(inputs: Path) -> Path | None:
    """The attached model of `package_model.py`, None where there is none. Raises KitError for several."""
    packages = [
        f
        for f in _folders(inputs)
        if (f / METADATA).is_file() and all(_kind(f / kind) == kind for kind in NETWORKS)
    ]
    if len(packages) > 1:
        raise KitError(
            f"{inputs}: expected one packaged model, found {', '.join(map(str, packages))}; attach one, or name its folders "
            "with --set model_paths.pretrained_tokenizer=... and pretrained_predictor=..."
        )
    return packages[0] if packages else None


def _network(inputs: Path, kind: str, source: str) -> Path:
    """The only attached network of this kind; of several, the only one whose path has the published name."""
    found = [folder for folder in _folders(inputs) if _kind(folder) == kind]
    name = Path(source).name.lower()
    chosen = (
        [f for f in found if name in (part.lower() for part in f.relative_to(inputs).parts)]
        if len(found) > 1
        else found
    )
    if len(chosen) == 1:
        return chosen[0]
    raise KitError(
        f"{inputs}: expected one folder with {CONFIG_FILE} and {WEIGHTS_FILE} of a {kind} ({Path(source).name}), found "
        f"{', '.join(map(str, found)) or 'none'}; attach the weights, or name their folder with --set "
        f"model_paths.pretrained_{kind}=..., or train from random ones with --set experiment.pre_trained=false"
    )


def _kind(folder: Path) -> str | None:
    """Which of the two networks a folder holds, by the keys of its configuration; None for neither."""
    if not ((folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()):
        return None
    keys = _settings(folder).keys()
    return next(
        (
            kind
            for kind, network in NETWORKS.items()
            if keys >= {f.name for f in fields(network.config_class)}
        ),
        None,
    )


def _settings(folder: Path) -> dict[str, Any]:
    """A network's configuration; {} for a file that is something else's."""
    try:
        return records.read(folder / CONFIG_FILE, dict[str, Any])
    except records.WrongShape:
        return {}


def _machine(output: Path, hours: float, gpus: int) -> Iterator[str]:
    """Where results go and what computes. The prepared data lies beside the output folder: it can be made
    again.
    """
    log.info(
        "%s, at most %g hours of training", f"{gpus} GPU(s), one process each" if gpus else "no GPU", hours
    )
    yield f"model_paths.base_path={json.dumps(str(output / 'runs'))}"
    yield f"data.store={json.dumps(str(output.parent / 'temp' / 'store'))}"
    yield f"training.time_limit={hours}"
    yield f"evaluation.time_limit={max(SESSION_HOURS - LAST_HOURS - hours, 0.1):g}"
    yield f"device.use_cuda={'true' if gpus else 'false'}"
    yield f"distributed.num_processes={max(gpus, 1)}"


def _restore(inputs: Path, config: Config) -> None:
    """Copy back the run that an earlier version of the notebook left, unless this session has one already."""
    target = config.run_dir
    if target.exists():
        log.info("run: %s is here already", target)
        return
    saved = Path("runs") / target.name / "pipeline_config.json"
    found = next((f / saved.parent for f in _folders(inputs) if (f / saved).is_file()), None)
    if found is None:
        log.info("run: none attached, %s starts anew", target.name)
        return
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(found, partial, ignore=shutil.ignore_patterns(".lock"))
    partial.rename(target)
    log.info("run: going on with %s", found)


def _folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """`root` and the folders below it, nearest first, in the order of their names; not what is `CLOSED`."""
    if not root.is_dir():
        raise KitError(f"{root}: expected the folder of attached inputs, found none; name it with --input")
    level = [root]
    for _ in range(depth + 1):
        level = [folder for folder in level if not any((folder / name).is_file() for name in CLOSED)]
        yield from level
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
