"""Checkpoints in Hugging Face form: a folder, or a hub repository, with a flat config.json and
model.safetensors.

In: a folder or a hub id. Out: a network in evaluation mode, or a `KitError` that says what was expected and
found. The files are those of the published `NeoQuasar/Kronos-*`, both ways. `PyTorchModelHubMixin`, which
wrote those, reads what is written here; it is not used, because it loads whatever matches and leaves the rest
at random, asks the hub for a folder with a typing error, and overwrites a checkpoint in place.
"""

import os
import re
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kronos import files, records
from kronos.errors import KitError
from kronos.networks.normalisation import NORMALISATION_FILE, Normalisation
from kronos.networks.stored import StoredAs, restored, stored

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
LARGEST_CONFIG = 1 << 20
"""Bytes of the largest config.json that is read; the published ones have 400."""
SMALL = 1_000_000
"""Parameters of a network that is built without a look at the size of its file."""

# HfHubHTTPError derives from the errors of whichever HTTP library the hub client was built on; a connection
# that breaks in the middle of a file raises those unwrapped. Its native downloader knows only RuntimeError.
_HTTP_ERRORS = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
HUB_ERRORS: tuple[type[Exception], ...] = (*_HTTP_ERRORS, HFValidationError, OSError, RuntimeError)
"""What the hub client raises when it cannot do what it was asked."""

Bits = Annotated[int, "1 to 30"]
"""Bits of a token: 2^bits is a number of rows."""

ConfigT = TypeVar("ConfigT")


KINDS: dict[str, type] = {}
"""Kinds of network that can be loaded, with the class of their configuration."""


class Pretrained(Generic[ConfigT]):
    """Adds `from_pretrained` and `save_pretrained` to a network whose parameters are a flat dataclass
    `config`.
    """

    config_class: ClassVar[type]
    config: ConfigT
    commit: str | None = None
    """The commit of the hub repository that the weights were loaded from; None: a folder, or new."""
    normalisation: Normalisation | None = None
    """Of the bars that it was trained on, saved beside it; None: not known, as of the published networks."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "config_class" in vars(cls):
            KINDS[cls.__name__] = cls.config_class

    @classmethod
    def count_parameters(cls, config: ConfigT) -> int:
        """Parameters of a network of that configuration, at least, by arithmetic: nothing is built."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        subfolder: str = "",
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        torch_dtype: torch.dtype | str | None = None,
    ) -> Self:
        """Load a network, in evaluation mode, on the CPU.

        source: a folder, which is read without touching the network, or the id of a hub repository
        ("owner/name"), which is downloaded into the hub client's cache. subfolder: where in either the
        network lies.
        Of a hub repository: revision, the branch, tag or commit to load (None: the main branch); cache_dir,
        another cache; local_files_only, take what the cache has and connect to nothing. torch_dtype: the type
        of the weights, or its name;
        None: float32, whatever the file holds.

        Raises KitError when files are missing, damaged, or not those of this kind of network, when a weight
        is NaN or infinite (a network with one such weight can still draw sound-looking tokens), and on a
        revision of a folder, which has none.
        """
        dtype = _dtype(torch_dtype)
        hub = HubOptions(revision, None if cache_dir is None else str(cache_dir), local_files_only)
        config_path, weights_path, said_path, commit = _find(source, cls.__name__, subfolder, hub)
        config = _read_config(config_path, cls.config_class, cls.__name__)
        weights = _read_weights(weights_path)
        _check_size(cls.count_parameters(config), weights, config_path)
        with Unfilled():
            network = cls(**asdict(config))
        assert isinstance(network, nn.Module)
        _load_weights(network, weights, weights_path)
        network.commit = commit
        network.normalisation = None if said_path is None else Normalisation.read(said_path)
        network.eval()
        return network if dtype is None else _converted(network, dtype, weights_path)

    def save_pretrained(self, folder: str | Path, stored_as: StoredAs = "float32") -> None:
        """Write config.json and model.safetensors. stored_as: bf16 and int8 round the weights (`stored`); such
        a file of int8 is read by this kit only. Each file appears whole or not at all; other files are
        kept.

        Both are written to a folder beside the target first. A new target appears by one rename; in an
        existing one the files are replaced, and between the two replacements only a network of another
        geometry would be mixed, which loading refuses. Raises KitError when they cannot be written (a full
        disk); what was there stays.
        """
        assert isinstance(self, nn.Module)
        target = Path(folder)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        weights = stored(state, stored_as)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix=f".{target.name}.", suffix=".tmp", dir=target.parent
            ) as holder:
                staged = Path(holder) / "network"
                if self.normalisation is not None:
                    self.normalisation.write(staged)
                files.write_json(staged / CONFIG_FILE, dict(sorted(asdict(self.config).items())))  # type: ignore[call-overload]
                with files.atomic(staged / WEIGHTS_FILE) as temporary:
                    temporary.write_bytes(
                        save_tensors(weights)
                    )  # a full disk is no OSError where safetensors writes the file
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
    broken += [
        f"{n} in [0, 1), found {v}" for n, v in values.items() if n.endswith("dropout_p") and not 0 <= v < 1
    ]
    broken += [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise KitError(f"{type(config).__name__}: expected {'; '.join(broken)}")


# -- finding files -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class HubOptions:
    """How a hub repository is read."""

    revision: str | None
    cache_dir: str | None
    local_files_only: bool


def _find(
    source: str | Path, kind: str, subfolder: str, hub: HubOptions
) -> tuple[Path, Path, Path | None, str | None]:
    """The configuration, the weights, the normalisation (None: there is no such file), and their commit
    (None: a folder).
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if hub.revision is not None:
            raise KitError(
                f"{source}: expected no revision of a folder, found {hub.revision!r}; leave it out, or name a hub id"
            )
        found = [_in_folder(folder / subfolder, name, kind) for name in (CONFIG_FILE, WEIGHTS_FILE)]
        said = folder / subfolder / NORMALISATION_FILE
        return found[0], found[1], said if said.is_file() else None, None
    if isinstance(source, Path) or _looks_like_path(source):
        raise KitError(
            f"{folder / CONFIG_FILE}: expected a folder with a saved {kind}, found no folder {folder}"
        )
    config = _download(source, CONFIG_FILE, kind, subfolder, hub)
    commit = _commit_of(config)
    # A branch or a tag may move between two downloads: the weights are those of the same commit.
    hub = replace(hub, revision=commit or hub.revision)
    weights = _download(source, WEIGHTS_FILE, kind, subfolder, hub)
    return config, weights, _download_if_there(source, NORMALISATION_FILE, kind, subfolder, hub), commit


def _in_folder(folder: Path, name: str, kind: str) -> Path:
    if not folder.is_dir():
        raise KitError(f"{folder / name}: expected a folder with a saved {kind}, found no folder {folder}")
    if (folder / name).is_file():
        return folder / name
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder"
    raise KitError(f"{folder / name}: expected this file of a saved {kind}, found {found}")


def _looks_like_path(source: str) -> bool:
    """Whether text that is no existing folder means a folder nevertheless: no hub id, or in a folder that
    exists.
    """
    return (
        re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source) is None or Path(source).parent.is_dir()
    )


def _commit_of(path: Path) -> str | None:
    """The commit of a file in the hub client's cache, which lies in .../snapshots/COMMIT/..."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None


def _download_if_there(repository: str, name: str, kind: str, subfolder: str, hub: HubOptions) -> Path | None:
    """A file that a repository may have. None: it has none (offline: the cache has none)."""
    try:
        return _download(repository, name, kind, subfolder, hub)
    except KitError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return None
        raise


def _download(repository: str, name: str, kind: str, subfolder: str, hub: HubOptions) -> Path:
    try:
        return Path(
            hf_hub_download(
                repository,
                name,
                subfolder=subfolder or None,
                revision=hub.revision,
                cache_dir=hub.cache_dir,
                local_files_only=hub.local_files_only,
            )
        )
    except HUB_ERRORS as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        version = f" (revision {hub.revision})" if hub.revision else ""
        raise KitError(
            f"{repository}{version}: expected a folder, or a hub repository with {name} of a {kind}; found no such folder, and "
            f"the hub client failed with {type(error).__name__}: {reason}. Check the name and the connection, or download the "
            "repository elsewhere and give its folder"
        ) from error


# -- reading -------------------------------------------------------------------------------------------------
class Unfilled(TorchFunctionMode):
    """Inside, new networks have no random weights: what is loaded fills them. Drawing those of `base` takes
    0.7 s.
    """

    FILLS = frozenset(
        {
            nn.init.kaiming_uniform_,
            nn.init.uniform_,
            nn.init.normal_,
            nn.init.xavier_normal_,
            Tensor.uniform_,
            Tensor.normal_,
        }
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    """A floating-point type, or its name with or without "torch."."""
    found = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if given is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise KitError(
            f"torch_dtype: expected a floating-point type such as torch.bfloat16 or 'bfloat16', found {given!r}"
        )
    return found


def _read_config(path: Path, config_class: type, kind: str) -> Any:
    remedy = f"it is to describe a {kind}: save or download the network again"
    try:
        tree = records.read_json(path, remedy=remedy, largest=LARGEST_CONFIG)
    except OSError as error:
        raise KitError(
            f"{path}: expected a readable file, found {error.strerror or error}; fix the permissions"
        ) from error
    if not isinstance(tree, dict):
        raise KitError(f"{path}: expected the configuration of a {kind}, found no keys and values; {remedy}")
    for other, theirs in KINDS.items():
        names = {item.name for item in fields(theirs)}
        if theirs is not config_class and names <= set(tree):
            raise KitError(
                f"{path}: expected the configuration of a {kind}, found that of a {other}; swap the two folders"
            )
    try:
        return records.check(tree, config_class, str(path), remedy=remedy, strict=True)
    except records.WrongShape:
        raise
    except KitError as error:
        raise KitError(f"{path}: {error}") from error


def _check_size(parameters: int, weights: dict[str, Tensor], path: Path) -> None:
    """Refuse a configuration of a network much larger than the file, before it is built: that could fill the
    memory.
    """
    held = sum(tensor.numel() for tensor in weights.values())
    if parameters > 2 * held + SMALL:
        raise KitError(
            f"{path}: expected the configuration of the {held:,} numbers in {WEIGHTS_FILE} beside it, found one of a network "
            f"with {_rounded(parameters)} parameters; copy or download both files again"
        )


def _rounded(count: int) -> str:
    return f"{count:,}" if count < 10**15 else "over 10^15"


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return restored(load_file(path))
    except OSError as error:
        raise KitError(
            f"{path}: expected a readable file, found {error.strerror or error}; fix the permissions"
        ) from error
    except SafetensorError as error:
        raise KitError(
            f"{path}: expected a safetensors file, found a damaged one ({error}); copy or download it again"
        ) from error


def _load_weights(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Fill the network; every name and shape has to match, and constants have to be the ones that we compute
    with.
    """
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
    bare = [n for n, t in weights.items() if t.dtype == torch.int8]  # with their scales they would be floats
    problems += _listed("of whole numbers without their scales", bare)
    if not problems:
        problems = _listed(
            "of another value", [n for n, t in network.named_buffers() if not _same_constant(weights[n], t)]
        )
        problems += _listed("with NaN or infinity in it", [n for n, t in weights.items() if not _finite(t)])
    if problems:
        raise KitError(
            f"{path}: expected the weights that {CONFIG_FILE} describes, found {'; '.join(problems)}"
        )
    network.load_state_dict(weights | dict(network.named_buffers()))


def _converted(network: Any, dtype: torch.dtype, path: Path) -> Any:
    """The network in another type. Raises KitError where a weight is too large for it."""
    network.to(dtype)
    lost = [name for name, tensor in network.state_dict().items() if not _finite(tensor)]
    if lost:
        found = "; ".join(_listed("that become infinite", lost))
        raise KitError(
            f"{path}: expected weights that {dtype} can hold, found {found}; load it as torch.float32"
        )
    return network


def _same_constant(found: Tensor, ours: Tensor) -> bool:
    """Equal up to the rounding of a file that was stored in half precision."""
    return torch.allclose(found.double(), ours.double(), rtol=1e-2, atol=0)


def _finite(tensor: Tensor) -> bool:
    """Whether every number is. The sum of finite numbers nearly always is, too, and takes a fifth of the time
    to look at.
    """
    if not tensor.is_floating_point() or bool(tensor.sum(dtype=torch.float32).isfinite()):
        return True
    return bool(tensor.isfinite().all())


def _listed(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{len(names)} {what} ({', '.join(names[:3])}{more})"] if names else []


# -- writing -------------------------------------------------------------------------------------------------
def _put_in_place(staged: Path, target: Path) -> None:
    if not target.exists():
        staged.rename(target)
        return
    if not (staged / NORMALISATION_FILE).exists():
        (target / NORMALISATION_FILE).unlink(missing_ok=True)  # of the network that is replaced
    for name in sorted((path.name for path in staged.iterdir()), reverse=True):
        os.replace(staged / name, target / name)  # noqa: PTH105 (Path.replace says less about overwriting)
