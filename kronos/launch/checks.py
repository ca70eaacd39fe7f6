"""What would end a launch hours later, looked at before anything runs: GPUs, input files, places to write to.

In: a checked configuration. Out: nothing, or a KitError. Reads headers and small files only.
"""

import os
import tempfile
from pathlib import Path

from kronos import final
from kronos.config import Config
from kronos.data import competition, ingest, price_files, sources
from kronos.data.store import BarStore
from kronos.errors import KitError

SUBMISSIONS = Path("submissions")


def check_devices(config: Config, gpus: int, wanted: int | None = None) -> None:
    """Refuse to use more GPUs than there are: running on fewer would be a silent change of the run. `wanted`,
    `gpus`: see `plan_launch`."""
    here = config.distributed.num_processes // config.distributed.num_machines
    if not config.device.use_cuda:
        return
    if wanted == 0:
        raise KitError(
            "--multi-gpu: expected GPUs, found none; use --cpu --num-processes N to train on the processor"
        )
    if here > gpus and (wanted or here > 1):
        raise KitError(
            f"expected {here} GPUs on this machine, found {gpus}; ask for {gpus}, or use --cpu --num-processes {here}"
        )
    if gpus and here == 1 and config.device.device_id >= gpus:
        raise KitError(
            f"device.device_id: expected below {gpus}, the number of GPUs here, found {config.device.device_id}"
        )


def check_inputs(config: Config) -> None:
    """The files that a run reads are there and look like what they should be, or will be generated. Reads
    headers only, and the two small files in whole. Raises KitError."""
    data = config.data
    if config.market.generate:
        from kronos.data.market_files import check_market  # only a demonstration needs it

        check_market(config.market, data)
        if not Path(str(data.data_path)).exists():
            return
    if config.source.skip:
        BarStore.open(data.store)
        return
    if config.has_source:
        sources.check(config)  # its files are written later
        return
    for path in price_files.find_sources(data.data_path):
        ingest.open_prices(path, data.columns)
    for setting in ("test_path", "sample_submission_path", "solution_path"):
        path = Path(getattr(data, setting) or ".")
        if not path.exists():
            raise price_files.missing(f"data.{setting}", path)
    test = competition.read_test(data.test_path, data) if data.test_path else None
    sample = competition.read_sample(data.sample_submission_path) if data.sample_submission_path else None
    if test is not None and sample is not None and set(test["ID"]) != set(sample["ID"]):
        odd = sorted(set(test["ID"]) ^ set(sample["ID"]))
        raise KitError(
            f"{data.sample_submission_path}: expected the IDs of {data.test_path}, found {len(odd)} that only one of them has, "
            f"e.g. {odd[0]}; use two files of one competition"
        )


def check_final(config: Config) -> None:
    """Raise KitError where `experiment.final` asks for a final run that cannot be made."""
    if not config.experiment.final:
        return
    if config.distributed.num_machines > 1:
        raise KitError(
            f"--final: expected one machine, found {config.distributed.num_machines}; "
            "run scripts/final_run.py on one of them afterwards"
        )
    final.final_config(config, {})  # settings that leave a choice to a validation are refused


def check_outputs(config: Config, submit: bool) -> None:
    """Every folder that the launch will write into can be one, and can be written to. Creates nothing. Raises
    KitError.
    """
    if submit and not config.data.test_path:
        raise KitError(
            "--submit: expected the rows to forecast in data.test_path, found nothing; set it, or leave --submit out"
        )
    run = config.run_dir
    places = {
        "model_paths.base_path": run,
        "model_paths.tokenizer_save_name": config.tokenizer_dir,
        "model_paths.basemodel_save_name": config.basemodel_dir,
        "the run's logs": run / "logs",
        "the run's backtest": run / "backtest",
        "data.store": Path(config.data.store),
    }
    if submit:
        places["the submission's folder"] = SUBMISSIONS
    for setting, folder in places.items():
        _check_folder(setting, folder)


def _check_folder(setting: str, folder: Path) -> None:
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        if nearest.is_symlink():
            raise KitError(
                f"{nearest}: expected a folder ({setting}), found a link to nothing; remove it or choose another path"
            )
        nearest = nearest.parent
    if not nearest.is_dir():
        raise KitError(
            f"{nearest}: expected a folder ({setting}), found a file; move it away or choose another path"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise KitError(
            f"{nearest}: expected a folder that can be written to ({setting}); fix the permissions or choose another"
        )


def try_writing(folder: Path) -> None:
    """Write and remove a small file in `folder`, which is made where it is missing: a full disk, a quota and
    a read-only mount show only so. Raises OSError, which `kronos.cli` words."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".tried.") as probe:
        probe.write(b"x" * 4096)
        probe.flush()
        os.fsync(probe.fileno())
