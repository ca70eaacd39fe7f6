"""Checkpoints in Hugging Face form: a folder, or a hub repository, with a flat config.json and model.safetensors.

In: a folder or a hub id. Out: a network in evaluation mode, or a `KitError` that says what was expected and found.
The files are those of the published `NeoQuasar/Kronos-*`, both ways. `PyTorchModelHubMixin`, which wrote those, reads
what is written here; it is not used, because it loads whatever matches and leaves the rest at random, asks the hub
for a folder with a typing error, and overwrites a checkpoint in place.
"""

import json
import os
import re
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from kronos import files
from kronos.errors import KitError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

# HfHubHTTPError derives from the errors of whichever HTTP library the hub client was built on; a connection that breaks
# in the middle of a file raises those unwrapped. Its native downloader knows only RuntimeError.
_HTTP_ERRORS = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
HUB_ERRORS: tuple[type[Exception], ...] = (*_HTTP_ERRORS, HFValidationError, OSError, RuntimeError)
"""What the hub client raises when it cannot do what it was asked."""

ConfigT = TypeVar("ConfigT")


class Pretrained(Generic[ConfigT]):
    """Adds `from_pretrained` and `save_pretrained` to a network whose parameters are a flat dataclass `config`."""

    config_class: ClassVar[type]
    config: ConfigT

    @classmethod
    def from_pretrained(cls, source: str | Path, subfolder: str = "") -> Self:
        """Load a network, in evaluation mode, on the CPU.

        source: a folder, which is read without touching the network, or the id of a hub repository ("owner/name"),
        which is downloaded into the hub client's cache. subfolder: where in either the network lies. Raises KitError
        when files are missing, damaged, or not those of this kind of network, and when a weight is NaN or infinite: a network
        with one such weight can still draw sound-looking tokens.
        """
        config_path, weights_path = (_locate(source, name, cls.__name__, subfolder) for name in (CONFIG_FILE, WEIGHTS_FILE))
        settings = _read_config(config_path, cls.config_class, cls.__name__)
        try:
            network = cls(**settings)
        except KitError as error:
            raise KitError(f"{config_path}: {error}") from error
        assert isinstance(network, nn.Module)
        _load_weights(network, _read_weights(weights_path), weights_path)
        network.eval()
        return network

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors. Each file appears whole or not at all; other files are kept.

        Both are written to a folder beside the target first. A new target appears by one rename; in an existing one
        the files are replaced, and between the two replacements only a network of another geometry would be mixed,
        which loading refuses. Raises KitError when they cannot be written (a full disk); what was there stays.
        """
        assert isinstance(self, nn.Module)
        target = Path(folder)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as holder:
                staged = Path(holder) / "network"
                files.write_json(staged / CONFIG_FILE, dict(sorted(asdict(self.config).items())))  # type: ignore[call-overload]
                with files.atomic(staged / WEIGHTS_FILE) as temporary:
                    temporary.write_bytes(save_tensors(weights))  # a full disk is no OSError where safetensors writes the file
                _put_in_place(staged, target)
        except OSError as error:
            raise KitError(
                f"{target}: could not write the network ({error.strerror or error}); free some space, or mend the folder's rights"
            ) from error


def check_pair(tokenizer: Any, predictor: Any) -> None:
    """Raise KitError unless the predictor's tokens are the tokenizer's: equal s1_bits and s2_bits."""
    ours, theirs = ((net.config.s1_bits, net.config.s2_bits) for net in (tokenizer, predictor))
    if ours != theirs:
        raise KitError(
            f"tokenizer and predictor do not fit: expected equal (s1_bits, s2_bits), found {ours} and {theirs}; "
            "load the tokenizer that the predictor was trained with"
        )


def check_geometry(config: Any, rules: dict[str, bool]) -> None:
    """Raise KitError naming every broken rule of a network configuration.

    rules: text of what is expected and found -> whether it holds. Besides, whole numbers must be >= 1 and
    dropout probabilities in [0, 1).
    """
    values = {f.name: getattr(config, f.name) for f in fields(config)}
    broken = [f"{n} >= 1, found {v}" for n, v in values.items() if type(v) is int and v < 1]
    broken += [f"{n} in [0, 1), found {v}" for n, v in values.items() if n.endswith("dropout_p") and not 0 <= v < 1]
    broken += [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise KitError(f"{type(config).__name__}: expected {'; '.join(broken)}")


# -- finding files -----------------------------------------------------------------------------------------------------
def _locate(source: str | Path, name: str, kind: str, subfolder: str) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        folder = folder / subfolder
    if folder.is_dir():
        if (folder / name).is_file():
            return folder / name
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder"
        raise KitError(f"{folder / name}: expected this file of a saved {kind}, found {found}")
    if isinstance(source, Path) or _looks_like_path(source) or Path(source).is_dir():
        raise KitError(f"{folder / name}: expected a folder with a saved {kind}, found no folder {folder}")
    return _download(source, name, kind, subfolder)


def _looks_like_path(source: str) -> bool:
    """Whether text that is no existing folder means a folder nevertheless: no hub id, or in a folder that exists."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source) is None or Path(source).parent.is_dir()


def _download(repository: str, name: str, kind: str, subfolder: str) -> Path:
    try:
        return Path(hf_hub_download(repository, name, subfolder=subfolder or None))
    except HUB_ERRORS as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise KitError(
            f"{repository}: expected a folder, or a hub repository with {name} of a {kind}; found no such folder, and the "
            f"hub client failed with {type(error).__name__}: {reason}. Check the name and the connection, or download the "
            "repository elsewhere and give its folder"
        ) from error


# -- reading -----------------------------------------------------------------------------------------------------------
def _read_config(path: Path, config_class: type, kind: str) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KitError(f"{path}: expected the configuration of a {kind} as JSON, found {error}; save it again") from error
    if not isinstance(tree, dict):
        raise KitError(f"{path}: expected key: value pairs of a {kind}, found {type(tree).__name__}")
    expected = {f.name: f.type for f in fields(config_class)}
    problems = [f"missing {key}" for key in expected if key not in tree]
    problems += [f"unknown {key}" for key in tree if key not in expected]
    problems += [f"{k}: {tree[k]!r} is not {_name(t)}" for k, t in expected.items() if k in tree and not _is(tree[k], t)]
    if problems:
        raise KitError(f"{path}: expected the configuration of a {kind}, found {'; '.join(problems)}")
    return tree


def _is(value: Any, kind: Any) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def _name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", list: "a list", dict: "a table"}
    return names[kind]


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise KitError(
            f"{path}: expected a safetensors file, found a damaged one ({error}); copy or download it again"
        ) from error


def _load_weights(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Fill the network; every name and shape has to match, and constants have to be the ones that we compute with."""
    own = network.state_dict()
    problems = _listed("missing", [n for n in own if n not in weights])
    problems += _listed("unknown", [n for n in weights if n not in own])
    problems += _listed(
        "of another shape",
        [
            f"{n} {tuple(weights[n].shape)} for {tuple(t.shape)}"
            for n, t in own.items()
            if n in weights and weights[n].shape != t.shape
        ],
    )
    if not problems:
        problems = _listed("of another value", [n for n, t in network.named_buffers() if not _same_constant(weights[n], t)])
        problems += _listed("with NaN or infinity in it", [n for n, t in weights.items() if not _finite(t)])
    if problems:
        raise KitError(f"{path}: expected the weights that {CONFIG_FILE} describes, found {'; '.join(problems)}")
    network.load_state_dict(weights | dict(network.named_buffers()))


def _same_constant(found: Tensor, ours: Tensor) -> bool:
    """Equal up to the rounding of a file that was stored in half precision."""
    return torch.allclose(found.double(), ours.double(), rtol=1e-2, atol=0)


def _finite(tensor: Tensor) -> bool:
    """Whether every number is. The sum of finite numbers nearly always is, too, and takes a fifth of the time to look at."""
    if not tensor.is_floating_point() or bool(tensor.sum(dtype=torch.float32).isfinite()):
        return True
    return bool(tensor.isfinite().all())


def _listed(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{len(names)} {what} ({', '.join(names[:3])}{more})"] if names else []


# -- writing -----------------------------------------------------------------------------------------------------------
def _put_in_place(staged: Path, target: Path) -> None:
    if not target.exists():
        staged.rename(target)
        return
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        os.replace(staged / name, target / name)  # noqa: PTH105 (Path.replace says less about overwriting)
