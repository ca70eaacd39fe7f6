"""A notebook session on Kaggle: from what is attached to a configuration that runs there and resumes next time.

In: the input folder (read-only) and the output folder (kept when the run completes), a profile. Out: OUTPUT/session.json, a
resolved configuration with the paths of this session, and one line for everything that was found or not. The previous
version's output, attached as an input, is copied back so that `--skip-existing` goes on where it stopped.
"""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from kronos import configfile, files
from kronos.config import Config, to_dict
from kronos.errors import KitError

log = logging.getLogger(__name__)

DEPTH = 6
"""Folders below the input folder that are looked into: Kaggle mounts a data set some levels deep."""


def write_session(
    inputs: str | Path, output: str | Path, profile: str | Path, overrides: Sequence[str], *, hours: float, gpus: int
) -> Path:
    """Write the session's configuration. Returns its path.

    hours: of training, below what the session lasts. gpus: those of this machine, one process each. `overrides` win over
    everything found. Raises KitError naming what is not attached.
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
        raise KitError("data.data_path: expected one file for a session, found a list; give --set data.data_path=FILE")
    wanted = {"data_path": given, "test_path": config.data.test_path}
    wanted |= {key: getattr(config.data, key) for key in ("sample_submission_path", "solution_path")}
    names = {key: Path(path).name for key, path in wanted.items() if path}
    required = [name for key, name in names.items() if key != "solution_path"]
    folder = next((f for f in _folders(inputs) if all((f / name).is_file() for name in required)), None)
    if folder is None:
        raise KitError(f"{inputs}: expected a folder with {', '.join(required)}, found none; attach the competition's data")
    log.info("competition files: %s", folder)
    yield "market.generate=false"  # inputs are read-only
    for key, name in names.items():
        if (folder / name).is_file():
            yield f"data.{key}={json.dumps(str(folder / name))}"


def _model(inputs: Path, config: Config) -> Iterator[str]:
    """The pretrained pair: a packaged model, or two attached folders of the published names."""
    wanted = {
        "tokenizer": (config.tokenizer_is_pretrained, config.model_paths.pretrained_tokenizer),
        "predictor": (config.predictor_is_pretrained, config.model_paths.pretrained_predictor),
    }
    for kind, (needed, source) in wanted.items():
        if not needed:
            continue
        names = {kind, Path(source).name.lower()}
        folder = next((f for f in _folders(inputs) if f.name.lower() in names and (f / "model.safetensors").is_file()), None)
        if folder is None:
            raise KitError(
                f"{inputs}: expected a folder {Path(source).name} or {kind} with config.json and model.safetensors, found none; "
                "attach the weights, or train from random ones with --set experiment.pre_trained=false"
            )
        log.info("pretrained %s: %s", kind, folder)
        yield f"model_paths.pretrained_{kind}={json.dumps(str(folder))}"


def _machine(output: Path, hours: float, gpus: int) -> Iterator[str]:
    """Where results go and what computes. The prepared data lies beside the output folder: it can be made again."""
    log.info("%s, at most %g hours of training", f"{gpus} GPU(s), one process each" if gpus else "no GPU", hours)
    yield f"model_paths.base_path={json.dumps(str(output / 'runs'))}"
    yield f"data.store={json.dumps(str(output.parent / 'temp' / 'store'))}"
    yield f"training.time_limit={hours}"
    yield f"device.use_cuda={'true' if gpus else 'false'}"
    yield f"distributed.num_processes={max(gpus, 1)}"
    yield f"distributed.use_ddp={'true' if gpus > 1 else 'false'}"


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
    """`root` and the folders below it, nearest first, in the order of their names."""
    if not root.is_dir():
        raise KitError(f"{root}: expected the folder of attached inputs, found none; name it with --input")
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = [child for folder in level for child in sorted(folder.iterdir()) if child.is_dir()]
