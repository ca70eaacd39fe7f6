"""From a user's YAML or JSON file and --set overrides to a checked `Config`.

In: a path, a list of `section.key=value`. Out: a `Config` with every empty path derived. All problems are
collected and reported at once, each with what was expected and the nearest right key. pydantic checks types;
YAML is read safely.
"""

import difflib
import functools
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from kronos import guide_keys, records
from kronos.config import PART_SHARES, Config
from kronos.config_gone import without_gone
from kronos.config_rules import contradictions
from kronos.errors import KitError

log = logging.getLogger(__name__)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, override, check and complete a configuration. Raises KitError naming every problem."""
    tree = _read(Path(path))
    problems = [p for text in overrides if (p := _override(tree, text))]
    tree, remarks, others = without_gone(tree)
    problems += others
    for line in remarks:
        _say_once(f"{path}: {line}")
    problems += _unknown_keys(tree)
    checked, wrong_types = _validate(tree)
    problems += wrong_types
    if checked is not None:
        checked = _one_way_to_cut(checked, tree)
        problems += list(_out_of_range(checked)) or contradictions(checked, PATHS)
    if problems or checked is None:
        where = str(path)
        if overrides:
            where += " and the command line"
        raise KitError(f"{where}: " + "; ".join(problems))
    return derived_paths(checked)


def _one_way_to_cut(config: Config, tree: dict[str, Any]) -> Config:
    """Parts by days or dates take the place of shares that the file does not name; shares that it does name
    are refused later.
    """
    if not config.data.parts_by_days:
        return config
    written = tree.get("data", {})
    unused: dict[str, Any] = {name: None for name in PART_SHARES if name not in written}
    return replace(config, data=replace(config.data, **unused))


def peek(path: str | Path, overrides: Sequence[str], section: str, key: str) -> Any:
    """What a setting is set to, else its default, before anything is checked (`load` does that)."""
    tree = _read(Path(path))
    for text in overrides:
        _override(tree, text)
    return tree.get(section, {}).get(key, getattr(getattr(Config(), section), key))


def derived_paths(config: Config) -> Config:
    """Expand ~ in every path setting; fill empty paths from base_path/exp_name, the run's name from
    exp_name.
    """
    config = _with_source(_at_home(config))
    paths = config.model_paths
    save = paths.base_save_path or str(Path(paths.base_path) / paths.exp_name)
    tokenizer = paths.finetuned_tokenizer or str(Path(save) / paths.tokenizer_save_name / "best_model")
    store = config.data.store or str(Path(paths.base_path) / "stores" / _store_name(config.data.data_path))
    return replace(
        config,
        model_paths=replace(paths, base_save_path=save, finetuned_tokenizer=tokenizer),
        data=replace(config.data, store=store),
        experiment=replace(config.experiment, name=config.experiment.name or paths.exp_name),
    )


def _with_source(config: Config) -> Config:
    """The files that a source writes (docs/sources.md), where no others are named."""
    data, source = config.data, config.source
    if not config.has_source:
        return replace(config, data=replace(data, data_path=source.path or data.data_path))
    bars = data.data_path or str(Path("data") / source.name / "bars.parquet")
    folder = Path(str(bars)).parent
    test, pool = data.test_path or str(folder / "test.csv"), data.pool_path or str(folder / "pool.csv")
    return replace(config, data=replace(data, data_path=bars, test_path=test, pool_path=pool))


PATHS = {
    "source": ("path", "plugin", "symbols"),  # symbols: perhaps a CSV file
    "data": ("data_path", "test_path", "sample_submission_path", "solution_path", "pool_path", "store"),
    "model_paths": (
        "pretrained_tokenizer",
        "pretrained_predictor",
        "base_path",
        "base_save_path",
        "finetuned_tokenizer",
    ),
    "training": ("teacher",),
}
"""The settings that name files and folders. Nobody else expands ~ in them."""


def _at_home(config: Config) -> Config:
    """~ and ~user at the start of a path replaced by the home folder. Raises KitError when there is no such
    user.
    """
    changed = {}
    for section, names in PATHS.items():
        values = getattr(config, section)
        expanded = {name: _expanded(f"{section}.{name}", getattr(values, name)) for name in names}
        changed[section] = replace(values, **expanded)
    return replace(config, **changed)


def _expanded(setting: str, path: str | list[str]) -> str | list[str]:
    if isinstance(path, list):
        return [str(_expanded(setting, each)) for each in path]
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise KitError(
            f"{setting}: expected a path, found {path}, and no home folder of that user; write it out"
        ) from error


def _store_name(data_path: str | list[str]) -> str:
    first = Path(data_path[0] if isinstance(data_path, list) and data_path else str(data_path or "data"))
    return f"{first.parent.name}-{first.name.split('.')[0]}".strip("-")


# -- reading -------------------------------------------------------------------------------------------------
LARGEST = 2**20
"""Bytes of the largest configuration file that is read."""
MOST_ALIASES = 100
"""Places of one file that may repeat a value by a YAML alias."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """safe_load that refuses a key written twice (the first value would be lost silently), keys that are no
    words, and aliases inside of what is repeated itself, which grow without bound."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._aliases = 0
        self._inside_anchor = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            self._aliases += 1
            if self._inside_anchor or self._aliases > MOST_ALIASES:
                line = self.peek_event().start_mark.line + 1
                raise yaml.YAMLError(
                    f"line {line}: an alias inside of an alias, or too many of them; write the values out"
                )
            return super().compose_node(parent, index)
        anchored = self.peek_event().anchor is not None
        self._inside_anchor += anchored
        node = super().compose_node(parent, index)
        self._inside_anchor -= anchored
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(
                    f"line {key_node.start_mark.line + 1}: expected a word as a key, found {_shown(key)}"
                )
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


# "no" is a word here, as in YAML 1.2: training.mixed_precision takes it, and a setting of type bool still
# reads it as false
_BOOL = "tag:yaml.org,2002:bool"
_DATE = "tag:yaml.org,2002:timestamp"  # a date stays the text that it is: data.train_until takes it
_UniqueKeyLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _DATE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_UniqueKeyLoader.add_implicit_resolver(
    _BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"; found {', '.join(near)} beside it" if near else ""
        raise KitError(f"{path}: expected a YAML or JSON configuration file, found none{hint}")
    if path.stat().st_size > LARGEST:
        raise KitError(
            f"{path}: expected a configuration of at most {LARGEST:,} bytes, found {path.stat().st_size:,}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = json.loads(text) if path.suffix == ".json" else yaml.load(text, _UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except RecursionError:
        raise KitError(
            f"{path}: not readable as configuration: too many brackets inside each other"
        ) from None
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # ValueError: no JSON, no UTF-8, a number of thousands of digits
        raise KitError(f"{path}: not readable as configuration: {_shown_text(error)}") from error
    if tree is None:
        return {}
    if isinstance(tree, dict) and guide_keys.is_flat(tree, _sections()):
        return _from_guide(path, tree)
    if not isinstance(tree, dict) or not all(isinstance(v, dict | None) for v in tree.values()):
        raise KitError(f"{path}: expected sections ({', '.join(_sections())}) that hold key: value pairs")
    return {section: dict(values or {}) for section, values in tree.items()}


def _from_guide(path: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """A file with the guide's flat keys, as sections; what is not read is said, once for each file of a
    process.
    """
    try:
        sections, remarks = guide_keys.translate(tree, _sections())
    except KitError as error:
        raise KitError(f"{path}: {error}") from error
    _say_once(f"{path}: the guide's keys are read (docs/guide_keys.md)")
    for remark in remarks:
        _say_once(f"{path}: {remark}")
    return sections


@functools.cache
def _say_once(text: str) -> None:
    log.info(text)


def _shown_text(error: Exception) -> str:
    """An error's own words on one line of bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."


def _override(tree: dict[str, Any], text: str) -> str | None:
    """Apply one `section.key=value`; the value is read as YAML. Returns a problem or None."""
    name, equals, value = text.partition("=")
    *section, key = name.split(".")
    if not equals or not section:
        return f"--set {text}: expected section.key=value"
    node = tree
    for part in section:
        if not isinstance(node.setdefault(part, {}), dict):
            return f"--set {text}: {part} is a value, not a section"
        node = node[part]
    try:
        node[key] = yaml.load(value, _UniqueKeyLoader) if value else ""  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return f"--set {text}: the value is not readable as YAML; quote it"
    return None


# -- checking ------------------------------------------------------------------------------------------------
def _sections() -> list[str]:
    return [f.name for f in fields(Config)]


def _known(kind: Any = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every `section.key` there is, with its annotated type."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if is_dataclass(hint):
            yield from _known(hint, f"{prefix}{name}.")
        else:
            yield prefix + name, hint


SECTIONS = {*_sections(), *(name.rsplit(".", 1)[0] for name, _ in _known())}
"""Names of sections, and of sections inside of them: `data`, `data.cleaning`."""


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and (value or prefix + key in SECTIONS):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _unknown_keys(tree: dict[str, Any]) -> list[str]:
    known = [name for name, _ in _known()]
    free = tuple(
        f"{name}." for name, hint in _known() if get_origin(hint) is dict
    )  # whose keys are the user's own words
    problems = []
    for name in _flatten(tree):
        if name in known or name.startswith(free):
            continue
        same_key = [k for k in known if k.rsplit(".", 1)[1] == name.rsplit(".", 1)[-1]]
        near = same_key or difflib.get_close_matches(name, known, 1, 0.5)
        problems.append(f"unknown key {name}" + (f" (did you mean {near[0]}?)" if near else ""))
    return problems


def _adapter() -> TypeAdapter[Config]:
    """pydantic over the plain dataclasses. Extra keys are `_unknown_keys`' business, which knows the nearest
    right one.
    """
    for kind in [Config, *(hint for _, hint in _dataclasses(Config))]:
        kind.__pydantic_config__ = ConfigDict(extra="ignore", allow_inf_nan=False)
    return TypeAdapter(Config)


def _dataclasses(kind: Any) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield name, hint
            yield from _dataclasses(hint)


def _validate(tree: dict[str, Any]) -> tuple[Config | None, list[str]]:
    known = {name for name, _ in _known()}
    try:
        return _adapter().validate_python(tree), []
    except ValidationError as error:
        problems: dict[str, str] = {}  # one line per key, though a union reports each of its branches
        for item in error.errors():
            path = [str(part) for part in item["loc"]]
            name = next(
                (n for i in range(len(path), 0, -1) if (n := ".".join(path[:i])) in known), ".".join(path)
            )
            expected = re.sub(r"^Input should be (a valid )?|, (unable|got|input).*", "", item["msg"])
            problems.setdefault(name, f"{name}: expected {expected}, found {_shown(item['input'])}")
        return None, list(problems.values())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _range(hint: Any) -> str | None:
    """The range that an annotation carries, itself or in one branch of `X | None`."""
    parts = [hint, *getattr(hint, "__args__", ())]
    return next(
        (text for part in parts for text in getattr(part, "__metadata__", ()) if records.is_range(text)), None
    )


def _value(config: Config, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), config)


def _out_of_range(config: Config) -> Iterator[str]:
    for name, hint in _known():
        allowed, value = _range(hint), _value(config, name)
        if allowed and value is not None and not records.in_range(value, allowed):
            yield f"{name}: expected {allowed}, found {value:g}"
