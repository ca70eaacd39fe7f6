"""Packed weights are made once and are never those of other weights; forecasters are frozen and share them."""

import copy
import gc
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from test_forecaster import inputs, make, tiny_networks
from torch import Tensor

from kronos.errors import KitError
from kronos.networks import Kronos, packed
from kronos.networks.packed import packed_blocks, packed_predictor
from kronos.training.device import in_halves


def network() -> Kronos:
    return tiny_networks()[0].eval()


def test_a_network_is_packed_once() -> None:
    """Not per call: packing `base` takes a third of a second."""
    model, tokenizer = tiny_networks()
    first = packed_predictor(model, torch.float32)
    assert packed_predictor(model, torch.float32) is first
    assert packed_predictor(model, torch.bfloat16) is not first
    assert packed_predictor(model, torch.float32) is first
    assert packed_blocks(tokenizer.decoder, torch.float32) is packed_blocks(tokenizer.decoder, torch.float32)


def in_place(model: Kronos) -> None:
    with torch.no_grad():
        model.transformer[0].ffn.w2.weight.mul_(1.5)  # type: ignore[union-attr, operator]


def an_optimiser_step(model: Kronos) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(model.parameters(), lr=0.1).step()


def another_state(model: Kronos) -> None:
    model.load_state_dict(tiny_networks(seed=5)[0].state_dict())


def a_parameter_replaced(model: Kronos) -> None:
    model.embedding.emb_s1.weight = torch.nn.Parameter(model.embedding.emb_s1.weight.detach() * 2)


def there_and_back(model: Kronos) -> None:
    """Cast down and up again: other numbers, perhaps at the addresses of the old ones."""
    model.to(torch.bfloat16).to(torch.float32)


def through_data(model: Kronos) -> None:
    """As an average of weights is often written; torch does not count it."""
    for parameter in model.parameters():
        parameter.data.mul_(1.01)


CHANGES = [in_place, through_data, an_optimiser_step, another_state, a_parameter_replaced, there_and_back]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights_are_packed_anew(change: Callable[[Kronos], None]) -> None:
    """A forecast of weights that are gone would be wrong without a word."""
    own = make(sample_count=3)
    own.forecast(**inputs())
    before = packed_predictor(own.model, torch.float32)
    change(own.model)
    after = own.forecast(**inputs()).paths
    fresh = make(sample_count=3)
    fresh.model.load_state_dict(own.model.state_dict())
    np.testing.assert_array_equal(after, fresh.forecast(**inputs()).paths)
    now = packed_predictor(own.model, torch.float32)
    same = [torch.equal(a, b) for a, b in zip(before.tokens, now.tokens, strict=True)]
    assert now is not before and not (
        all(same) and torch.equal(before.blocks[0].down.weight, now.blocks[0].down.weight)
    )


def test_a_copy_has_packs_of_its_own() -> None:
    model = network()
    first = packed_predictor(model, torch.float32)
    other = copy.deepcopy(model)
    in_place(other)
    assert packed_predictor(model, torch.float32) is first
    assert not torch.equal(
        packed_predictor(other, torch.float32).blocks[0].down.weight, first.blocks[0].down.weight
    )


def test_packs_go_with_their_network() -> None:
    gc.collect()
    known = len(packed._KEPT)
    model = network()
    packed_predictor(model, torch.float32)
    assert len(packed._KEPT) == known + 1
    del model
    gc.collect()
    assert len(packed._KEPT) == known


def test_weights_that_torch_does_not_watch_are_packed_every_time() -> None:
    with torch.inference_mode():
        model = network()
        first = packed_predictor(model, torch.float32)
        assert packed_predictor(model, torch.float32) is not first


def test_packing_is_done_in_full_precision() -> None:
    """Under a caller's autocast, folding weights into each other would round what is then kept for all."""
    with torch.autocast("cpu", torch.bfloat16):
        under: list[Tensor] = list(packed_predictor(network(), torch.float32).tokens)
    for found, expected in zip(under, packed_predictor(network(), torch.float32).tokens, strict=True):
        assert torch.equal(found, expected)


def test_a_forecaster_is_frozen() -> None:
    own = make()
    with pytest.raises(FrozenInstanceError):
        own.settings = make().settings  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        own.settings.batch_size = 1  # type: ignore[misc]
    other = own.using(batch_size=1)
    assert (own.settings.batch_size, other.settings.batch_size) == (3, 1) and other.model is own.model
    with pytest.raises(TypeError):
        own.using(batch=1)


def test_threads_share_a_forecaster() -> None:
    """No call leaves a note of its batch or paths that another call would read."""
    own, given = make(), inputs()
    expected = {count: own.using(batch_size=count).forecast(**given).paths for count in (1, 2, 5)}
    found: dict[int, np.ndarray] = {}

    def ask(count: int) -> None:
        found[count] = own.using(batch_size=count).forecast(**given).paths

    threads = [threading.Thread(target=ask, args=(count,)) for count in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for count, paths in expected.items():
        np.testing.assert_array_equal(found[count], paths)


def test_rows_that_do_not_fit_come_in_halves() -> None:
    """Every row once, in order; a size that failed is not tried again by later batches."""
    tried: list[int] = []

    def work(rows: np.ndarray) -> list[int]:
        tried.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError
        return rows.tolist()

    def fewer(count: int) -> int:
        if count == 1:
            raise KitError("one row does not fit")
        return count // 2

    found = list(in_halves([np.arange(10), np.arange(10, 18)], work, fewer))
    assert [number for _, numbers in found for number in numbers] == list(range(18))
    assert all(rows.tolist() == numbers for rows, numbers in found)
    assert [size for size in tried if size > 3] == [10, 5]
    with pytest.raises(RuntimeError, match="another"):
        list(in_halves([np.arange(2)], lambda _: (_ for _ in ()).throw(RuntimeError("another")), fewer))
