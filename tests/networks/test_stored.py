"""Weights stored in half or a quarter of the size, and read back by the usual loader."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, preset
from kronos.networks.stored import StoredAs

SIZES: dict[StoredAs, tuple[float, float]] = {
    "float32": (0.99, 1.05),
    "bf16": (0.49, 0.55),
    "int8": (0.24, 0.33),
}


@pytest.fixture(scope="module")
def model() -> Kronos:
    torch.manual_seed(0)
    return Kronos(**preset("nano")[1]).eval()


@pytest.mark.parametrize("precision", SIZES)
def test_size_and_numbers(model: Kronos, precision: StoredAs, tmp_path: Path) -> None:
    """As small as promised, near the exact weights, and the same when it is stored once more."""
    model.save_pretrained(tmp_path, precision)
    held = sum(tensor.nbytes for tensor in model.state_dict().values())
    least, most = SIZES[precision]
    assert least * held < (tmp_path / "model.safetensors").stat().st_size < most * held
    found = Kronos.from_pretrained(tmp_path)
    for name, tensor in found.state_dict().items():
        exact = model.state_dict()[name]
        assert tensor.dtype == exact.dtype
        torch.testing.assert_close(tensor, exact, rtol=2**-8, atol=float(exact.abs().max()) / 250)
        assert precision != "float32" or torch.equal(tensor, exact)
    found.save_pretrained(tmp_path / "again", precision)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        tmp_path / "model.safetensors"
    ).read_bytes()


def test_a_tokenizer_can_be_stored_so_too(tmp_path: Path) -> None:
    """Its buffers of whole numbers stay what they are."""
    torch.manual_seed(0)
    own = KronosTokenizer(**preset("nano")[0]).eval()
    for precision in ("bf16", "int8"):
        own.save_pretrained(tmp_path / precision, precision)  # type: ignore[arg-type]
        found = KronosTokenizer.from_pretrained(tmp_path / precision)
        assert torch.equal(found.quantizer.basis, own.quantizer.basis)  # type: ignore[arg-type]


def test_a_scale_that_fits_nothing_is_refused(model: Kronos, tmp_path: Path) -> None:
    """Whole numbers without their scale, or with one of another shape, are no weights."""
    model.save_pretrained(tmp_path, "int8")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".scale"))
    save_file(tensors | {name: tensors[name][:1].clone()}, path)
    with pytest.raises(KitError, match=r"1 unknown .*\.scale"):
        Kronos.from_pretrained(tmp_path)
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, path)
    with pytest.raises(KitError, match="whole numbers without"):
        Kronos.from_pretrained(tmp_path)


def test_a_scale_that_is_not_finite_is_refused(model: Kronos, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, "int8")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".scale"))
    tensors[name][0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(KitError, match="NaN or infinity"):
        Kronos.from_pretrained(tmp_path)
