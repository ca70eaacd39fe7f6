"""The hidden states of a predictor that stays as it is: computed once per network, data and settings, and
kept on disk.

In: a head whose trunk is frozen, the samples of both parts. Out: files (n, D) float16 that loaders map into
memory, in `RUN/states/KEY/`, where another head of the run finds them. The key is a digest of the networks,
the store, the samples and what the windows are cut and normalised with; a folder appears complete or not at
all. Several processes compute a share each.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kronos import files
from kronos.config import Config
from kronos.data.date_batches import DateIndex
from kronos.data.store import BarStore
from kronos.data.windows import WindowReader
from kronos.networks.head import Head
from kronos.progress import progress
from kronos.training import memory
from kronos.training.head_data import HeadData
from kronos.training.runtime import Runtime

log = logging.getLogger(__name__)

CHUNK = 1024
"""Samples between two looks at whether the run has to stop."""
KEY = "key.json"


def frozen_states(
    config: Config, store: BarStore, data: HeadData, head: Head, networks: str, runtime: Runtime
) -> tuple[Path, Path] | None:
    """Files of the states of training and of validation, which an earlier run may have left; None: asked to
    stop meanwhile.

    networks: digest of tokenizer and predictor. Every process has to call it.
    """
    facts = _facts(config, store, data, networks)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder, temporary = config.run_dir / "states" / key, config.run_dir / "states" / f".{key}.tmp"
    names = ("train.npy", "validation.npy")
    if runtime.on_main(lambda: (folder / KEY).is_file()):
        log.info("head: the predictor's states are in %s, computed before", folder)
        return folder / names[0], folder / names[1]
    runtime.on_main(
        lambda: _allocate(
            temporary, [len(data.train.row), len(data.validation.row)], head.trunk.config.d_model
        )
    )
    head.to(runtime.device).eval()
    for name, index in zip(names, (data.train, data.validation), strict=True):
        done = _compute(config, store, index, head, temporary / name, runtime)
        if runtime.total([float(not done)])[0]:
            return None
    runtime.on_main(lambda: _publish(temporary, folder, facts))
    return folder / names[0], folder / names[1]


def _facts(config: Config, store: BarStore, data: HeadData, networks: str) -> dict[str, object]:
    """What the states are a function of."""
    rows = hashlib.sha256()
    for index in (data.train, data.validation):
        rows.update(np.ascontiguousarray(index.row).tobytes())
    d = config.data
    window = {"lookback": config.head_token_lookback, "clip": d.clip, "norm_epsilon": d.norm_epsilon}
    return {"networks": networks, "data": store.digest, "samples": rows.hexdigest(), **window}


def _allocate(folder: Path, counts: list[int], width: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, count in zip(("train.npy", "validation.npy"), counts, strict=True):
        np.lib.format.open_memmap(folder / name, mode="w+", dtype=np.float16, shape=(count, width)).flush()


def _publish(temporary: Path, folder: Path, facts: dict[str, object]) -> None:
    """Put the finished files in place; those of other networks or settings go."""
    for old in folder.parent.glob("[!.]*"):
        log.info("head: %s is of another network, data or settings: removed", old)
        shutil.rmtree(old, ignore_errors=True)
    files.write_json(temporary / KEY, facts)
    temporary.rename(folder)


def _compute(
    config: Config, store: BarStore, index: DateIndex, head: Head, path: Path, runtime: Runtime
) -> bool:
    """Fill this process's share of the chunks; False: asked to stop."""
    d = config.data
    read = WindowReader(
        store, config.head_token_lookback, 0, clip=d.clip, epsilon=d.norm_epsilon, first_session=0
    )
    out = np.lib.format.open_memmap(path, mode="r+")
    starts = range(runtime.rank * CHUNK, len(index.row), runtime.world * CHUNK)
    with progress(f"states of the {index.part.name} part", len(index.row), "samples") as bar:
        for start in starts:
            if runtime.stop.asked:
                return False
            rows = index.row[start : start + CHUNK]
            out[start : start + CHUNK] = states_of(head, read, rows, runtime.device)
            bar.update(len(rows) * runtime.world)
    out.flush()
    return True


@torch.inference_mode()
def states_of(
    head: Head, read: WindowReader, rows: NDArray[np.int64], device: torch.device
) -> NDArray[np.float32]:
    """States (n, D) of the rows of last known bars, each with a whole lookback behind it, in as many pieces
    as fit.

    The head is on the device and in evaluation mode.
    """
    windows = read(rows - read.lookback + 1)
    x, stamp = torch.from_numpy(windows.x), torch.from_numpy(windows.stamp)
    pieces = 1
    while True:
        parts = list(zip(x.tensor_split(pieces), stamp.tensor_split(pieces), strict=True))
        done = memory.attempt(lambda: [head.state(a.to(device), b.to(device)).cpu() for a, b in parts])  # noqa: B023 (called at once)
        if done is not None:
            return torch.cat(done).numpy()
        pieces = memory.halved("head states", len(x), pieces)
