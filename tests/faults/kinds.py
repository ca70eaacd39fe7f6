"""The faults that are put into a finished run, each with the command that then meets it.

In: a finished world (`world.py`). Out: a list of `Fault`, the same for the same world.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import world
from safetensors.torch import load_file, save_file

SHAPES = {
    "list": b"[]",
    "empty group": b"{}",
    "number": b"3",
    "null": b"null",
    "text": b'"complete"',
    "nan": b'{"status": NaN}',
    "deep": b"[" * 100_000,
    "empty": b"",
    "bytes": bytes(range(256)) * 4,
}
"""What stands in a JSON file in place of what was there."""

WRONG_VALUES = (None, -1, "text", 1e300, [], {})
"""What stands in one field of a JSON file."""

DAMAGE = ("flip", "cut", "zeros", "gone", "folder")
"""What happens to a file that is not text."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong before a command."""

    name: str
    command: tuple[str, ...]
    spoil: Callable[[Path], None]
    file: str = ""
    """The file that is spoiled, relative to the world; its name tells whether a run that goes on has said
    so.
    """
    largest: int | None = None
    """Bytes of the largest file that the system lets the command write, as if the disk or a quota were
    full.
    """
    other_answers: bool = False
    """Other answers than before are right."""
    must_fail: bool = False
    """Going on is wrong, whatever it says: networks that compute no numbers."""


def all_faults(folder: Path) -> list[Fault]:
    """Every fault of every kind."""
    rng = random.Random(0)
    makers = (
        json_shapes,
        json_fields,
        weights,
        damaged_files,
        prices,
        test_files,
        settings,
        places,
        full_disks,
    )
    return [fault for make in makers for fault in make(folder, rng)]


# -- what was written as JSON --------------------------------------------------------------------------------
def readers(file: str) -> tuple[str, ...]:
    """The commands that read a file back."""
    if "/checkpoints/" in file:
        return ("resume",)
    if file.startswith("runs/stores/"):
        return ("basemodel", "submission")
    if file.startswith("models/"):
        return ("check",)
    if "/backtest/" in file:
        return ("compare", "submission")
    if file.endswith("summary.json"):
        return ("basemodel", "submission", "package", "compare")
    return ("submission", "package")


def json_shapes(folder: Path, rng: random.Random) -> Iterator[Fault]:
    for path in world.written_json(folder):
        file = str(path.relative_to(folder))
        for shape, content in SHAPES.items():
            name = rng.choice(readers(file))
            yield Fault(f"{name}: {file} is {shape}", command_of(name), replaced(file, content, name), file)


def json_fields(folder: Path, rng: random.Random) -> Iterator[Fault]:
    for path in world.written_json(folder):
        tree, file = json.loads(path.read_text()), str(path.relative_to(folder))
        places = list(leaves(tree))
        for place in rng.sample(places, min(5, len(places))):
            value, name = rng.choice(WRONG_VALUES), rng.choice(readers(file))
            shown = ".".join(map(str, place))
            yield Fault(
                f"{name}: {file}: {shown} is {value!r}",
                command_of(name),
                field_set(file, place, value, name),
                file,
            )


def leaves(tree: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*place, key))
    elif isinstance(tree, list) and tree:
        yield from leaves(tree[0], (*place, 0))
    elif place:
        yield place


def command_of(name: str) -> tuple[str, ...]:
    return world.COMMANDS["basemodel" if name == "resume" else name]


def unfinished(folder: Path) -> None:
    """The predictor's stage was interrupted: its checkpoints are there, its end is not."""
    stage = folder / "runs/world/basemodel"
    summary = json.loads((stage / "summary.json").read_text())
    summary["status"] = "interrupted"
    (stage / "summary.json").write_text(json.dumps(summary))


def replaced(file: str, content: bytes, name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        if name == "resume":
            unfinished(folder)
        (folder / file).write_bytes(content)

    return spoil


def field_set(file: str, place: tuple[str | int, ...], value: object, name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        if name == "resume":
            unfinished(folder)
        tree = json.loads((folder / file).read_text())
        node = tree
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
        (folder / file).write_text(json.dumps(tree))

    return spoil


# -- networks and other binary files -------------------------------------------------------------------------
PRETRAINED = (
    *("--set", "model_paths.pretrained_tokenizer=weights/tokenizer"),
    *("--set", "model_paths.pretrained_predictor=weights/basemodel"),
    *("--set", "experiment.pre_trained=true"),
)
"""Networks from elsewhere: no summary has a digest of them."""


def weights(folder: Path, rng: random.Random) -> Iterator[Fault]:
    command = (*world.COMMANDS["submission"], *PRETRAINED)
    for stage, best in world.networks(folder).items():
        tensors = load_file(best / "model.safetensors")
        names = [name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point()]
        for tensor in rng.sample(names, min(16, len(names))):
            value = rng.choice([float("nan"), float("inf"), float("-inf")])
            title = f"submission: {stage}'s {tensor} holds {value}"
            yield Fault(title, command, not_finite(stage, tensor, value), "weights", must_fail=True)
    for temperature in ("1e-320", "1e-30", "1e300"):
        title = f"submission: temperature {temperature}"
        changed = (*command, "--set", f"inference.temperature={temperature}")
        yield Fault(title, changed, elsewhere, "temperature", other_answers=True)


def elsewhere(folder: Path) -> None:
    """Both networks lie in `weights`, and the run has none."""
    (folder / "weights").mkdir()
    for stage, best in world.networks(folder).items():
        best.rename(folder / "weights" / stage)
    (folder / "runs/world").rename(folder / "aside")


def not_finite(stage: str, tensor: str, value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        elsewhere(folder)
        path = folder / "weights" / stage / "model.safetensors"
        tensors = load_file(path)
        tensors[tensor].view(-1)[0] = value
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def damaged_files(folder: Path, rng: random.Random) -> Iterator[Fault]:
    binary = [*(folder / "runs/stores").rglob("*.npy"), *(folder / "runs/world").rglob("*.safetensors")]
    binary += [
        p
        for p in (folder / "runs/world").rglob("checkpoints/*/*")
        if p.suffix not in {".json", ".safetensors"}
    ]
    for path in sorted(p for p in binary if p.is_file()):
        file = str(path.relative_to(folder))
        for kind in DAMAGE:
            name = "resume" if "/checkpoints/" in file else rng.choice(["submission", "basemodel"])
            yield Fault(
                f"{name}: {file}: {kind}", command_of(name), damaged(file, kind, rng.random(), name), file
            )


def damaged(file: str, kind: str, where: float, name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        if name == "resume":
            unfinished(folder)
        path = folder / file
        content = bytearray(path.read_bytes())
        place = int(where * len(content))
        if kind == "flip":
            content[place] ^= 0x40
        if kind == "zeros":
            content[place:] = bytes(len(content) - place)
        path.write_bytes(content[:place] if kind == "cut" else content)
        if kind in {"gone", "folder"}:
            path.unlink()
        if kind == "folder":
            path.mkdir()

    return spoil


# -- the user's files ----------------------------------------------------------------------------------------
def prices(folder: Path, rng: random.Random) -> Iterator[Fault]:
    lines = (folder / "data/train.csv").read_text().splitlines()
    header = lines[0].split(",")
    spoiled = {
        "empty": [],
        "header only": lines[:1],
        "no header": lines[1:],
        "cut in a row": [*lines[:50], lines[50][: len(lines[50]) // 3]],
        "a quote that never ends": [*lines[:50], '"' + lines[50]],
        "a row too short": [*lines[:50], "A,1", *lines[50:]],
        "words for numbers": [lines[0], *(line.replace(line.split(",")[-1], "many") for line in lines[1:60])],
        "a date that is none": [*lines[:50], ",".join(["2021-02-31"] * len(header)), *lines[50:]],
        "every row twice, other prices": [*lines, *(_raised(line) for line in lines[1:])],
        **{f"without {column}": _without(lines, place) for place, column in enumerate(header)},
    }
    for kind, content in spoiled.items():
        yield Fault(
            f"prepare: prices {kind}", world.COMMANDS["prepare"], own_prices(content), "data/train.csv"
        )


def _raised(line: str) -> str:
    return ",".join(_one_more(cell) for cell in line.split(","))


def _one_more(cell: str) -> str:
    try:
        return str(float(cell) + 1)
    except ValueError:
        return cell


def _without(lines: list[str], place: int) -> list[str]:
    rows = [line.split(",") for line in lines]
    return [",".join(row[:place] + row[place + 1 :]) for row in rows]


def own_prices(content: list[str]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "data/train.csv").write_text("\n".join(content))

    return spoil


def test_files(folder: Path, rng: random.Random) -> Iterator[Fault]:
    for file in ("data/test.csv", "data/sample_submission.csv"):
        lines = (folder / file).read_text().splitlines()
        spoiled = {
            "empty": [],
            "header only": lines[:1],
            "a column less": _without(lines, 1),
            "an ID twice": [*lines, lines[1]],
            "an ID more": [*lines, lines[1].replace(lines[1].split(",")[0], "unheard-of")],
            "an ID less": lines[:-1],
            "rows of words": [lines[0], *("x,y" for _ in lines[1:])],
        }
        for kind, content in spoiled.items():
            yield Fault(
                f"submission: {file} {kind}", world.COMMANDS["submission"], text_of(file, content), file
            )


def text_of(file: str, content: list[str]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / file).write_text("\n".join(content) + "\n")

    return spoil


# -- settings and places -------------------------------------------------------------------------------------
VALUES = {
    "data.lookback_window": ("0", "-1", "x", "1e11", "1"),
    "data.train_ratio": ("0", "2", "nan", "-.inf"),
    "data.clip": ("0", "nan", "x"),
    "data.store": ("config.yaml", "/dev/null/x", "'\\0'"),
    "training.seed": ("-1", "9223372036854775808", "1.5"),
    "training.batch_size": ("0", "100000000000", "x"),
    "training.accumulation_steps": ("0", "1000000000"),
    "training.tokenizer_learning_rate": ("0", ".inf", "x"),
    "training.scheduler": ("circle", "3"),
    "inference.sample_count": ("0", "100000000", "x"),
    "inference.temperature": ("-1", ".nan"),
    "inference.top_p": ("2", "-0.1"),
    "inference.threshold": ("2", ".nan"),
    "evaluation.draws": ("0", "100000000000"),
    "model_paths.exp_name": ("''", ".", "../x", "stores", "a/b", "x" * 300),
    "model_paths.tokenizer_save_name": ("basemodel", "..", "''"),
    "nothing.here": ("1",),
    "data": ("3",),
}
"""Settings that no run should start with."""


def settings(folder: Path, rng: random.Random) -> Iterator[Fault]:
    for setting, values in VALUES.items():
        for value in values:
            command = (*world.COMMANDS["tokenizer"], "--set", f"{setting}={value}")
            yield Fault(f"tokenizer: {setting}={value[:30]}", command, nothing, setting)


def places(folder: Path, rng: random.Random) -> Iterator[Fault]:
    for place, name in (
        ("submissions", "submission"),
        ("runs/world/backtest", "backtest"),
        ("models", "package"),
    ):
        for kind in ("file", "dangling link", "link to itself"):
            yield Fault(f"{name}: {place} is a {kind}", world.COMMANDS[name], blocked(place, kind), place)
    for gone in ("runs/stores", "runs/world/tokenizer", "runs/world/basemodel", "runs/world", "data"):
        for name in ("submission", "backtest", "package", "basemodel"):
            yield Fault(f"{name}: {gone} is gone", world.COMMANDS[name], removed(gone), gone)


def blocked(place: str, kind: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / place
        if path.exists():
            path.rename(path.with_name(path.name + "-before"))
        if kind == "file":
            path.write_text("the user's own")
        else:
            path.symlink_to(path.name if kind == "link to itself" else "nowhere/at/all")

    return spoil


def removed(place: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / place).rename(folder / "aside")

    return spoil


def full_disks(folder: Path, rng: random.Random) -> Iterator[Fault]:
    work = {"prepare": "runs/stores/world", "tokenizer": "runs/world", "basemodel": "runs/world/basemodel"}
    for name in ("prepare", "tokenizer", "basemodel", "backtest", "submission", "package"):
        spoil = removed(work[name]) if name in work else nothing  # there has to be something to write
        for size in (0, 1_000, 20_000):
            title = f"{name}: no file above {size} bytes"
            yield Fault(title, world.COMMANDS[name], spoil, "no space left", largest=size)


def nothing(folder: Path) -> None:
    """No file is spoiled."""
