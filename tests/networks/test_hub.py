"""Checkpoints: the published form both ways, one clear error for everything that is wrong, no network for a
folder.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file, save_file

from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, check_pair
from kronos.networks.normalisation import Normalisation

GOLDEN = Path(__file__).parents[1] / "golden"
KINDS: list[tuple[str, Any]] = [("tokenizer", KronosTokenizer), ("predictor", Kronos)]


@pytest.fixture(params=[(pair, *kind) for pair in "ab" for kind in KINDS], ids=lambda p: f"{p[0]}-{p[1]}")
def published(request: pytest.FixtureRequest) -> tuple[Path, Any]:
    pair, name, kind = request.param
    return GOLDEN / pair / name, kind


@pytest.fixture(params=KINDS, ids=lambda k: k[0])
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """A checkpoint that a test may damage."""
    name, kind = request.param
    return Path(shutil.copytree(GOLDEN / "b" / name, tmp_path / name)), kind


# -- the form ------------------------------------------------------------------------------------------------
def test_saving_writes_what_was_published(published: tuple[Path, Any], tmp_path: Path) -> None:
    """A key, name, type or shape that differs makes a checkpoint that only we can read."""
    folder, kind = published
    kind.from_pretrained(folder).save_pretrained(tmp_path / "new" / "network")
    saved = tmp_path / "new" / "network"
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in saved.parent.iterdir()] == ["network"], "no temporary file stays"
    assert list(json.loads((saved / "config.json").read_text()).items()) == list(
        json.loads((folder / "config.json").read_text()).items()
    )
    ours, theirs = load_file(saved / "model.safetensors"), load_file(folder / "model.safetensors")
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


def test_a_fresh_network_has_the_published_names(published: tuple[Path, Any]) -> None:
    """Buffers and parameters in the published order of types: int64 powers of two, float32 frequencies."""
    folder, kind = published
    fresh = kind(**json.loads((folder / "config.json").read_text())).state_dict()
    theirs = load_file(folder / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in fresh.items()} == {
        n: (t.shape, t.dtype) for n, t in theirs.items()
    }
    for name in theirs:
        if name.endswith(("basis", "inv_freq")):
            torch.testing.assert_close(fresh[name], theirs[name])


def test_the_original_way_of_loading_reads_ours(tmp_path: Path) -> None:
    """The published loader is huggingface_hub's mixin over a class that takes the same keys."""

    class Original(Kronos, PyTorchModelHubMixin):
        def __init__(
            self,
            s1_bits: int,
            s2_bits: int,
            n_layers: int,
            d_model: int,
            n_heads: int,
            ff_dim: int,
            ffn_dropout_p: float,
            attn_dropout_p: float,
            resid_dropout_p: float,
            token_dropout_p: float,
            learn_te: bool,
        ) -> None:
            settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
            super().__init__(**settings)

    Kronos.from_pretrained(GOLDEN / "b" / "predictor").save_pretrained(tmp_path / "p")
    theirs = PyTorchModelHubMixin.from_pretrained.__func__(Original, str(tmp_path / "p"), strict=True)
    ours = Kronos.from_pretrained(tmp_path / "p")
    for name, tensor in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor), name


def test_loaded_networks_are_in_evaluation_mode(published: tuple[Path, Any]) -> None:
    """Dropout in inference made the same forecast differ from call to call."""
    folder, kind = published
    network = kind.from_pretrained(str(folder))
    assert not any(module.training for module in network.modules())


def test_saving_again_replaces_the_files_and_nothing_else(tmp_path: Path) -> None:
    """A best model is saved many times over the last one; a note beside it is the user's."""
    network = Kronos.from_pretrained(GOLDEN / "b" / "predictor")
    network.save_pretrained(tmp_path / "best")
    (tmp_path / "best" / "README.md").write_text("mine")
    network.norm.weight.data.fill_(3.0)
    network.save_pretrained(tmp_path / "best")
    assert (Kronos.from_pretrained(tmp_path / "best").norm.weight == 3).all()
    assert (tmp_path / "best" / "README.md").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """A full disk in the middle of a save used to destroy the best model, and to be a traceback: the system
    refuses the write in the middle of the file."""
    network = Kronos.from_pretrained(GOLDEN / "b" / "predictor")
    network.save_pretrained(tmp_path / "best")
    before = {p.name: p.read_bytes() for p in (tmp_path / "best").iterdir()}
    network.norm.weight.data.fill_(3.0)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(
            KitError, match=r"best: could not write the network \(File too large\); free some space"
        ):
            network.save_pretrained(tmp_path / "best")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {p.name: p.read_bytes() for p in (tmp_path / "best").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_half_precision_files_load(copied: tuple[Path, Any]) -> None:
    """Weights stored in bfloat16 are common; their rounded frequencies must not become ours."""
    folder, kind = copied
    weights = read_weights(folder)
    save_file(
        {n: t.bfloat16() if t.is_floating_point() else t for n, t in weights.items()},
        folder / "model.safetensors",
    )
    network = kind.from_pretrained(folder)
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == weights[name].dtype
        if name.endswith("inv_freq"):
            assert torch.equal(tensor, weights[name])


# -- what may be wrong ---------------------------------------------------------------------------------------
def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Copies: what `load_file` gives may lie in the file itself, which a test overwrites."""
    return {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    tree = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in tree.items() if v is not ...}))


CONFIG_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"d_model": ...}, "d_model: expected a value, found none"),
    ({"d_modle": 64}, "d_modle: expected no such key, found one"),
    ({"d_model": "64"}, "d_model: expected a whole number, found '64'"),
    ({"n_heads": True}, "n_heads: expected a whole number, found True"),
    ({"resid_dropout_p": 1e400}, "expected JSON, found a file that is not|a finite number"),
    ({"s1_bits": 10**9}, "s1_bits: expected 1 to 30, found 1000000000"),
    ({"d_model": 10**6 * 16}, "found one of a network with over 10.15 parameters"),
    ({"ff_dim": 10**12}, "found one of a network with .* parameters; copy or download both files again"),
    ({"n_heads": 7}, r"config\.json: .*Config: expected d_model divisible by 2 x n_heads"),
    ({"ff_dim": 72}, r"of another shape \(.*ffn.w1.weight"),
]


@pytest.mark.parametrize(("changes", "words"), CONFIG_FAULTS)
def test_wrong_configurations(copied: tuple[Path, Any], changes: dict[str, Any], words: str) -> None:
    """The hub's own loader ignores unknown keys and leaves what does not fit at random values."""
    folder, kind = copied
    change_config(folder, **changes)
    with pytest.raises(KitError, match=words) as error:
        kind.from_pretrained(folder)
    assert "\n" not in str(error.value)


ABSURD = [
    "{",
    "[1, 2]",
    "",
    "null",
    "3",
    "NaN",
    "[" * 100_000,
    '{"d_model": NaN}',
    '{"a": ' * 5000,
    '"' + "x" * (2 << 20) + '"',
]


@pytest.mark.parametrize("text", ABSURD, ids=range(len(ABSURD)))
def test_unreadable_configuration(copied: tuple[Path, Any], text: str) -> None:
    """Half a download must not end in a traceback from the JSON parser."""
    folder, kind = copied
    (folder / "config.json").write_text(text)
    with pytest.raises(KitError, match=r"config\.json: expected") as error:
        kind.from_pretrained(folder)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


@pytest.mark.parametrize("layers", [10**6, 10**12])
def test_an_absurd_size_is_refused_before_it_is_built(copied: tuple[Path, Any], layers: int) -> None:
    """A configuration of a million blocks filled the memory before it was compared with its file."""
    folder, kind = copied
    change_config(folder, **{"n_layers" if kind is Kronos else "n_dec_layers": layers})
    started = time.process_time()
    with pytest.raises(KitError, match=r"config\.json: expected the configuration of the [0-9,]+ numbers"):
        kind.from_pretrained(folder)
    assert time.process_time() - started < 1


# -- how it is loaded ----------------------------------------------------------------------------------------
def test_loading_draws_no_random_weights(published: tuple[Path, Any]) -> None:
    """Weights that are thrown away took three quarters of the time to load `base`, and moved the caller's
    random numbers.
    """
    folder, kind = published
    before = torch.get_rng_state()
    network = kind.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(network.state_dict()[name], tensor), name
    fresh = [kind(**asdict(network.config)) for _ in range(2)]
    for one, other in zip(*(net.parameters() for net in fresh), strict=True):  # new networks still are random
        assert not one.requires_grad or one.std() == 0 or not torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.float16", torch.float64])
def test_a_type_can_be_asked_for(published: tuple[Path, Any], dtype: Any) -> None:
    """Deployment guides pass torch_dtype; it was a TypeError."""
    folder, kind = published
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype.removeprefix("torch."))
    assert {p.dtype for p in kind.from_pretrained(folder, torch_dtype=dtype).parameters()} == {wanted}
    for wrong in ("int8", "bf17", torch.int64, 16):
        with pytest.raises(
            KitError, match=r"torch_dtype: expected a floating-point type such as torch\.bfloat16"
        ):
            kind.from_pretrained(folder, torch_dtype=wrong)


def test_a_folder_has_no_revision(published: tuple[Path, Any]) -> None:
    """A pin that is silently ignored is worse than none."""
    folder, kind = published
    with pytest.raises(
        KitError, match=r"expected no revision of a folder, found 'v1\.0'; leave it out, or name a hub id"
    ):
        kind.from_pretrained(folder, revision="v1.0")
    assert kind.from_pretrained(folder, cache_dir="unused", local_files_only=True).commit is None


def test_wrong_weights(copied: tuple[Path, Any]) -> None:
    """A missing tensor would stay at random values, a superfluous one would be lost, without a word."""
    folder, kind = copied
    path = folder / "model.safetensors"
    weights = read_weights(folder)
    name = "head.weight" if "head.weight" in weights else "head.proj_s1.weight"
    missing = {n: t for n, t in weights.items() if n != name}
    basis = next(n for n in weights if n.endswith(("basis", "inv_freq")))
    for wrong, words in (
        (missing, rf"1 missing \({name}\)"),
        (weights | {"extra.weight": torch.zeros(2)}, r"1 unknown \(extra.weight\)"),
        (weights | {name: torch.zeros(2, 2)}, rf"1 of another shape \({name} \(2, 2\) for"),
        (weights | {basis: weights[basis] * 2}, rf"of another value \({basis}"),
    ):
        save_file(wrong, path)
        with pytest.raises(KitError, match=words):
            kind.from_pretrained(folder)


@pytest.mark.parametrize("length", [0, 5, 500, -100])
def test_damaged_weights(copied: tuple[Path, Any], length: int) -> None:
    """A copy that stopped half-way must be named as such."""
    folder, kind = copied
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        KitError, match=r"model\.safetensors: expected a safetensors file, found a damaged one"
    ):
        kind.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files_are_named(copied: tuple[Path, Any], name: str) -> None:
    """'Offline weights from a folder' failed with a hub error instead of the file's name."""
    folder, kind = copied
    (folder / name).unlink()
    with pytest.raises(KitError, match=rf"{name}: expected this file of a saved {kind.__name__}, found \w+"):
        kind.from_pretrained(folder)


def test_the_other_kind_of_network() -> None:
    """The two folders stand side by side and are easily swapped."""
    with pytest.raises(
        KitError, match=r"expected the configuration of a Kronos, found that of a KronosTokenizer; swap"
    ):
        Kronos.from_pretrained(GOLDEN / "a" / "tokenizer")
    with pytest.raises(
        KitError, match=r"expected the configuration of a KronosTokenizer, found that of a Kronos; swap"
    ):
        KronosTokenizer.from_pretrained(GOLDEN / "a" / "predictor")


def test_pairs_that_do_not_fit() -> None:
    """Tokens of another tokenizer are valid numbers with another meaning."""
    tokenizer, predictor = (KronosTokenizer.from_pretrained(GOLDEN / p / "tokenizer") for p in "ab"), Kronos
    a, b = tokenizer
    check_pair(a, predictor.from_pretrained(GOLDEN / "a" / "predictor"))
    with pytest.raises(KitError, match=r"expected equal \(s1_bits, s2_bits\), found \(6, 4\) and \(6, 6\)"):
        check_pair(b, predictor.from_pretrained(GOLDEN / "a" / "predictor"))


# -- the network ---------------------------------------------------------------------------------------------
NO_SOCKETS = """
    import socket, sys
    def refuse(*_args, **_kwargs):
        raise AssertionError("a socket was opened")
    socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
    from kronos.errors import KitError
    from kronos.networks import Kronos
    """


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(GOLDEN.parents[1])} | environment,
        timeout=120,
    )


def test_a_folder_never_touches_the_network(tmp_path: Path) -> None:
    """On an offline machine a folder, or a folder with a typing error, must not wait for a connection."""
    (tmp_path / "runs").mkdir()
    code = (
        NO_SOCKETS
        + """
    Kronos.from_pretrained(sys.argv[1])
    import os
    os.chdir(sys.argv[2])
    for wrong in ("runs/none", "./none", "/none/at/all", "none", "~/none", "a/b/c", "runs/none/", "..", ""):
        try:
            Kronos.from_pretrained(wrong)
        except KitError as error:
            assert "config.json: expected" in str(error), error
        else:
            raise AssertionError(wrong)
    """
    )
    done = python(code, str(GOLDEN / "a" / "predictor"), str(tmp_path))
    assert done.returncode == 0, done.stderr


HUB = """
    import http.server, os, socket, struct, sys, tempfile, threading
    from pathlib import Path
    how, folder = sys.argv[1], Path(sys.argv[2])
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = folder / self.path.rsplit("/", 1)[1]
            content = asked.read_bytes() if "/resolve/" in self.path and asked.is_file() else b""
            if how == "nothing" or not content:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound" if how == "whole" else "RepoNotFound")
                content = b""
            else:
                self.send_response(200)
                self.send_header("ETag", '"' + str(len(content)) + '"')
                self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET" and how == "broken" and content:
                self.wfile.write(content[:50])
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            elif self.command == "GET":
                self.wfile.write(content)
        do_HEAD = do_GET
        def log_message(self, *_):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["HF_HUB_OFFLINE"] = "1" if how == "offline" else "0"
    from kronos.errors import KitError
    from kronos.networks import Kronos
    try:
        network = Kronos.from_pretrained("owner/name")
    except KitError as error:
        print("KitError:", error)
    else:
        print("loaded", network.training, network.config.n_layers)
    """


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("whole", "loaded False 2"),
        (
            "nothing",
            "KitError: owner/name: expected a folder, or a hub repository with config.json of a Kronos",
        ),
        ("broken", "KitError: owner/name: expected a folder"),
        ("offline", "KitError: owner/name: expected a folder"),
    ],
)
def test_the_hub(how: str, words: str, tmp_path: Path) -> None:
    """A hub that has the repository, lacks it, breaks off in mid-file, or may not be asked: a network or one
    line.
    """
    done = python(HUB, how, str(GOLDEN / "b" / "predictor"), HF_HOME=str(tmp_path), HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(words)
    assert done.stdout.count("\n") == 1


MOVING = """
    import http.server, json, os, sys, threading
    from pathlib import Path
    from urllib.parse import unquote
    folder = Path(sys.argv[1])
    commits, at = {"a" * 40: 0, "b" * 40: 1}, {"v1.0": "a" * 40, "main": "b" * 40}
    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            revision, name = unquote(self.path).split("/resolve/")[1].split("/", 1)
            commit = at.get(revision, revision)
            asked = folder / str(commits[commit]) / name
            content = asked.read_bytes() if asked.is_file() else b""
            self.send_response(200 if content else 404)
            if not content:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", '"' + commit[0] + str(len(content)) + '"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)
                if name == "config.json" and move:
                    at["v1.0"] = "b" * 40  # the tag moves between the two files
        do_HEAD = do_GET
        def log_message(self, *_):
            pass
    move = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    from kronos.networks import Kronos
    from kronos.errors import KitError
    def load(**options):
        network = Kronos.from_pretrained("owner/name", **options)
        says = "" if network.normalisation is None else network.normalisation.epsilon[0]
        return network.commit[0] + str(float(network.norm.weight.detach()[0])) + says
    found = [load(), load(revision="v1.0"), load(revision="a" * 40)]
    move.append(True)
    found.append(load(revision="v1.0", cache_dir=sys.argv[2]))
    found.append(load(revision="v1.0"))
    server.shutdown()
    found.append(load(revision="v1.0", local_files_only=True))
    try:
        load(revision="v2.0", local_files_only=True)
    except KitError as error:
        found.append(str(error)[:29])
    print(json.dumps(found))
    """


def test_revisions_of_a_hub_repository(tmp_path: Path) -> None:
    """A revision could not be named. A tag that moved is followed; both files are of one commit, which the
    network knows.
    """
    for number in range(2):
        network = Kronos.from_pretrained(GOLDEN / "b" / "predictor")
        network.norm.weight.data.fill_(1.0 + number)
        network.normalisation = Normalisation("relative") if number else None
        network.save_pretrained(tmp_path / "served" / str(number))
    settings = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = python(MOVING, str(tmp_path / "served"), str(tmp_path / "other"), **settings)
    assert done.returncode == 0, done.stderr
    expected = ["b2.0r", "a1.0", "a1.0", "a1.0", "b2.0r", "b2.0r", "owner/name (revision v2.0): e"]
    assert json.loads(done.stdout) == expected
    assert (tmp_path / "other").is_dir()
