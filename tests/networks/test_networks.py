"""The networks' properties: sizes, causality, precision, initialisation, and the quantiser loss in parts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, preset
from kronos.networks.layers import RMSNorm, RotaryEmbedding, attend, attend_in_eights
from kronos.networks.predictor import sample_categorical
from kronos.networks.presets import PRESETS
from kronos.networks.quantizer import BinarySphericalQuantizer

TOKENIZER: dict[str, Any] = {
    "d_in": 6,
    "d_model": 32,
    "n_heads": 2,
    "ff_dim": 40,
    "n_enc_layers": 3,
    "n_dec_layers": 2,
    "ffn_dropout_p": 0.0,
    "attn_dropout_p": 0.0,
    "resid_dropout_p": 0.0,
    "s1_bits": 5,
    "s2_bits": 3,
    "beta": 0.25,
    "gamma0": 1.0,
    "gamma": 1.1,
    "zeta": 0.5,
    "group_size": 4,
}
PREDICTOR: dict[str, Any] = {
    "s1_bits": 5,
    "s2_bits": 3,
    "n_layers": 2,
    "d_model": 32,
    "n_heads": 2,
    "ff_dim": 48,
    "ffn_dropout_p": 0.0,
    "attn_dropout_p": 0.0,
    "resid_dropout_p": 0.0,
    "token_dropout_p": 0.0,
    "learn_te": True,
}
DROPOUTS = ("ffn_dropout_p", "attn_dropout_p", "resid_dropout_p")
B, T = 3, 12


@pytest.fixture
def tokenizer() -> KronosTokenizer:
    torch.manual_seed(0)
    return KronosTokenizer(**TOKENIZER)


@pytest.fixture
def predictor() -> Kronos:
    torch.manual_seed(0)
    return Kronos(**PREDICTOR)


def bars() -> Tensor:
    return torch.randn(B, T, 6, generator=torch.Generator().manual_seed(1))


def tokens() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    stamp = torch.stack([torch.randint(0, n, (B, T), generator=g) for n in (60, 24, 7, 32, 13)], -1).float()
    return torch.randint(0, 32, (B, T), generator=g), torch.randint(0, 8, (B, T), generator=g), stamp


# -- sizes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "tokenizer_count", "predictor_count"),
    [("mini", 3_958_042, 4_108_032), ("small", 3_958_042, 24_741_376), ("base", 3_958_042, 102_310_592)],
)
def test_published_parameter_counts(name: str, tokenizer_count: int, predictor_count: int) -> None:
    """One layer, bias or embedding row too many, and a published checkpoint does not fit."""
    with torch.device("meta"):
        networks = [
            kind(**settings) for kind, settings in zip((KronosTokenizer, Kronos), preset(name), strict=True)
        ]
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == [tokenizer_count, predictor_count]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_together(name: str) -> None:
    """A preset whose predictor cannot read its tokenizer's tokens would fail only after the first stage."""
    tokenizer, predictor = preset(name)
    assert (tokenizer["s1_bits"], tokenizer["s2_bits"]) == (predictor["s1_bits"], predictor["s2_bits"])
    tokenizer["d_model"] = 0
    assert preset(name)[0]["d_model"] > 0, "preset() must give copies"


def test_unknown_preset() -> None:
    """A typing error in the configuration must name what there is."""
    with pytest.raises(KitError, match="nano, mini, small, base"):
        preset("large")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_heads": 3}, "d_model"),
        ({"group_size": 3}, "group_size"),
        ({"s1_bits": 0}, "s1_bits"),
        ({"ffn_dropout_p": 1.0}, "ffn_dropout_p"),
    ],
)
def test_impossible_tokenizers(change: dict[str, Any], words: str) -> None:
    """A geometry that cannot be built must be named, not end in a shape error from inside torch."""
    with pytest.raises(KitError, match=words):
        KronosTokenizer(**(TOKENIZER | change))


def test_impossible_predictor() -> None:
    """The dependency layer has 4 heads, so that a width of 20 has no even head width."""
    with pytest.raises(KitError, match="dependency layer"):
        Kronos(**(PREDICTOR | {"d_model": 20, "n_heads": 2}))


# -- causality -----------------------------------------------------------------------------------------------
def first_changed(before: Tensor, after: Tensor) -> int:
    """The first of the T positions at which two (B, T, ...) results differ."""
    differs = (before != after).flatten(2).any(-1).any(0) if before.ndim > 2 else (before != after).any(0)
    return int(differs.nonzero()[0]) if differs.any() else before.shape[1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("t", [0, 5, T - 1])
def test_tokenizer_is_causal(tokenizer: KronosTokenizer, training: bool, t: int) -> None:
    """A token that knew later bars would leak the horizon into the context."""
    tokenizer.train(training)
    x, changed = bars(), bars()
    changed[:, t] += 3
    before, after = tokenizer(x), tokenizer(changed)
    for one, other in zip(before, after, strict=True):
        assert first_changed(one, other) == t
    s1, s2 = tokenizer.encode(x)
    late1, late2 = s1.clone(), s2.clone()
    late1[:, t] ^= 1
    late2[:, t] ^= 1
    assert first_changed(tokenizer.decode(s1, s2), tokenizer.decode(late1, late2)) == t


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("t", [0, 5, T - 1])
def test_predictor_is_causal(predictor: Kronos, training: bool, t: int) -> None:
    """In evaluation mode the original's dependency layer sees the future, so its validation loss is too
    good.
    """
    predictor.train(training)
    s1, s2, stamp = tokens()
    query = torch.roll(s1, -1, 1)
    before = predictor(s1, s2, stamp, query)
    late1, late2, late_stamp, late_query = s1.clone(), s2.clone(), stamp.clone(), query.clone()
    late1[:, t] ^= 1
    late2[:, t] ^= 1
    late_stamp[:, t] = 1 - late_stamp[:, t].clamp(0, 1)
    late_query[:, t] ^= 1
    for one, other in zip(before, predictor(late1, late2, late_stamp, query), strict=True):
        assert first_changed(one, other) == t
    after = predictor(s1, s2, stamp, late_query)
    changed = (before[1] != after[1]).flatten(2).any(-1).any(0).nonzero().flatten().tolist()
    assert torch.equal(before[0], after[0])
    assert changed == ([t] if t else []), (
        "a query counts for its own position; with one key there is nothing to choose"
    )


def test_cached_decoding_equals_the_training_forward(predictor: Kronos) -> None:
    """The original's one-step decoding rotates nothing: its s2 logits are not those that were trained."""
    predictor.eval()
    s1, s2, stamp = tokens()
    first, query = 5, torch.roll(s1, -1, 1)
    logits1, logits2 = predictor(s1, s2, stamp, query)
    state = predictor.prefill(s1[:, :first], s2[:, :first], stamp[:, :first], paths=2, steps=T - first)
    for t in range(first, T + 1):
        both = (
            predictor.s1_logits(state.hidden),
            predictor.decode_s2_logits(state, query[:, t - 1, None].expand(-1, 2)),
        )
        for path in (0, 1):
            torch.testing.assert_close(both[0][:, path], logits1[:, t - 1], rtol=0, atol=2e-6)
            torch.testing.assert_close(both[1][:, path], logits2[:, t - 1], rtol=0, atol=2e-6)
        if t < T:
            predictor.decode_one(
                state, s1[:, t, None].expand(-1, 2), s2[:, t, None].expand(-1, 2), stamp[:, t]
            )


def test_paths_do_not_see_each_other(predictor: Kronos) -> None:
    """A cache shared by paths where it must not be would make one path follow another."""
    predictor.eval()
    s1, s2, stamp = tokens()
    hidden = []
    for other in (0, 1):
        state = predictor.prefill(s1, s2, stamp, paths=2, steps=2)
        for _ in range(2):
            step1 = torch.tensor([[3, other]]).expand(B, -1)
            predictor.decode_one(state, step1, step1, stamp[:, 0])
        hidden.append(state.hidden)
    assert torch.equal(hidden[0][:, 0], hidden[1][:, 0])
    assert not torch.equal(hidden[0][:, 1], hidden[1][:, 1])


# -- tokens --------------------------------------------------------------------------------------------------
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_codes_and_indices_are_inverse(s1_bits: int, s2_bits: int, seed: int) -> None:
    """Unequal splits used to be cut in the middle."""
    q = BinarySphericalQuantizer(s1_bits, s2_bits, beta=1.0, gamma0=1.0, gamma=1.0, zeta=1.0, group_size=1)
    g = torch.Generator().manual_seed(seed)
    s1, s2 = (
        torch.randint(0, 2**s1_bits, (2, 5), generator=g),
        torch.randint(0, 2**s2_bits, (2, 5), generator=g),
    )
    codes = q.codes(s1, s2)
    assert torch.allclose(codes.norm(dim=-1), torch.ones(2, 5))
    found = q.indices(codes)
    assert torch.equal(found[0], s1) and torch.equal(found[1], s2)
    _, code = q(codes * 3)
    assert torch.equal(code, codes), "quantising a code gives the code itself, exactly"


def test_zero_is_a_negative_sign(tokenizer: KronosTokenizer) -> None:
    """Code and index of an entry that is exactly 0 must agree."""
    z, code = tokenizer.quantizer(torch.zeros(1, 1, 8))
    assert (code < 0).all()
    assert [int(s) for s in tokenizer.quantizer.indices(z)] == [0, 0]


def test_straight_through_gradient(tokenizer: KronosTokenizer) -> None:
    """The reconstruction's gradient carries 1/sqrt(K); a factor more changes how fast the encoder learns."""
    x = torch.randn(2, 8, requires_grad=True)
    z, code = tokenizer.quantizer(x)
    (gradient,) = torch.autograd.grad(code.sum(), z)
    assert torch.allclose(gradient, torch.full_like(gradient, 8**-0.5))


# -- the quantiser loss in parts -----------------------------------------------------------------------------
def plain_quantizer_loss(q: BinarySphericalQuantizer, z: Tensor, code: Tensor, weight: Tensor) -> Tensor:
    """The loss written down once more, over weighted positions."""
    share = weight / weight.sum()
    p = torch.sigmoid(-4 * z / q.bits**0.5)

    def entropy(p: Tensor) -> Tensor:
        return sum(-v * torch.log(v + 1e-8) for v in (p, 1 - p)).sum(-1)  # type: ignore[union-attr]

    commitment = (share * (code.detach() - z).square().sum(-1)).sum()
    codebook = entropy((share[..., None] * p).sum((0, 1)))
    return q.beta * commitment + q.zeta * (q.gamma0 * (share * entropy(p)).sum() - q.gamma * codebook)


def test_quantizer_loss_adds_up_over_micro_batches(tokenizer: KronosTokenizer) -> None:
    """The codebook entropy is that of a mean: summing it per micro-batch would train something else,
    silently.
    """
    q = tokenizer.quantizer
    x = torch.randn(5, T, 8, dtype=torch.float32, generator=torch.Generator().manual_seed(3))
    weight = torch.rand(5, T, generator=torch.Generator().manual_seed(4))
    weight[3] = 0
    whole = x.clone().requires_grad_()
    expected = plain_quantizer_loss(q, *q(whole), weight)
    expected.backward()

    parts = [(x[:1].clone().requires_grad_(), weight[:1]), (x[1:].clone().requires_grad_(), weight[1:])]
    with torch.no_grad():
        step = q.terms(*q(parts[0][0]), parts[0][1]) + q.terms(*q(parts[1][0]), parts[1][1])
    shares = [q.loss(q.terms(*q(part), w), step) for part, w in parts]
    sum(shares).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(sum(shares), expected)
    torch.testing.assert_close(torch.cat([part.grad for part, _ in parts]), whole.grad)  # type: ignore[misc]

    alone = x.clone().requires_grad_()
    q.loss(q.terms(*q(alone), weight)).backward()
    torch.testing.assert_close(alone.grad, whole.grad)


def test_rows_without_weight_do_not_train(tokenizer: KronosTokenizer) -> None:
    """Padding rows that move the codebook's mean would make the result depend on the batch size."""
    q = tokenizer.quantizer
    x = torch.randn(4, T, 8)
    weight = torch.ones(4, T)
    weight[2:] = 0
    torch.testing.assert_close(q.loss(q.terms(*q(x), weight)), q.loss(q.terms(*q(x[:2]))))


# -- precision -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("causal", "scale"), [(True, None), (False, None), (True, 1.0)])
def test_heads_filled_up_for_a_gpu_attend_alike(causal: bool, scale: float | None) -> None:
    """A T4 has no attention kernel for the 52 entries of `base`'s heads. Filled to 56, scores keep the scale
    of 52, and values and gradients their size. The kernels themselves were never run here."""
    given = [torch.randn(2, 3, 11, 52, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    filled = attend_in_eights(*given, scale=scale, dropout_p=0.0, is_causal=causal)
    plain = attend(*given, scale=scale, dropout_p=0.0, is_causal=causal)
    torch.testing.assert_close(filled, plain)
    for ours, theirs in zip(
        torch.autograd.grad(filled.sin().sum(), given),
        torch.autograd.grad(plain.sin().sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_rotary_tables_stay_float32() -> None:
    """bfloat16 has 8 bits: positions above 256 would share their angles, and long contexts lose their
    order.
    """
    expected = RotaryEmbedding(16).table(600)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = RotaryEmbedding(16).table(600)
    cast = RotaryEmbedding(16).to(torch.bfloat16).table(600)
    for found in (autocast, cast):
        assert found.cos.dtype == torch.float32
        assert torch.equal(found.cos, expected.cos) and torch.equal(found.sin, expected.sin)
    position, frequency = 599, 10000.0 ** (-2 / 16)
    assert (
        abs(float(expected.sin[position, 1]) - float(torch.tensor(position * frequency).double().sin()))
        < 1e-4
    )


def test_norm_is_computed_in_float32() -> None:
    """Squares of half-precision values overflow above 256."""
    norm = RMSNorm(4).half()
    x = torch.tensor([300.0, -300.0, 300.0, 300.0]).half()
    assert torch.equal(norm(x), torch.tensor([1.0, -1.0, 1.0, 1.0]).half())


@pytest.mark.parametrize("how", ["autocast", "cast"])
def test_bfloat16_is_close_to_float32(how: str, tokenizer: KronosTokenizer, predictor: Kronos) -> None:
    """Mixed precision that computes something else would only show as a worse model."""
    s1, s2, stamp = tokens()
    x, query = bars(), torch.roll(s1, -1, 1)
    full, logits = tokenizer(x).full, predictor(s1, s2, stamp, query)
    loss = predictor.loss(s1, s2, stamp).total
    enabled = how == "autocast"
    if not enabled:
        tokenizer, predictor = tokenizer.to(torch.bfloat16), predictor.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        assert (tokenizer.decode(*tokenizer.encode(x))).isfinite().all()
        codes = tokenizer(x).code
        assert codes.dtype == torch.float32 and full.shape == x.shape
        for found, expected in zip(predictor(s1, s2, stamp, query), logits, strict=True):
            assert found.dtype == torch.bfloat16
            assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()
        assert abs(predictor.loss(s1, s2, stamp).total - loss) < 0.02


# -- training details ----------------------------------------------------------------------------------------
def test_initialisation_of_the_predictor() -> None:
    """PyTorch's default embeddings have deviation 1: sqrt(D) times too large here, and training from scratch
    stalls.
    """
    torch.manual_seed(0)
    model = Kronos(**(PREDICTOR | {"d_model": 128, "s1_bits": 9}))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            fan = sum(module.weight.shape)
            assert abs(module.weight.std() / (2 / fan) ** 0.5 - 1) < 0.1, name
            assert module.bias is None or not module.bias.any(), name
        elif isinstance(module, nn.Embedding):
            assert abs(module.weight.std() * 128**0.5 - 1) < 0.1, name
        elif isinstance(module, RMSNorm):
            assert (module.weight == 1).all()


def test_fixed_calendar_is_not_trained() -> None:
    """Sinusoids that an initialiser or an optimiser overwrites are neither the published ones nor learned."""
    model = Kronos(**(PREDICTOR | {"learn_te": False}))
    weight = model.state_dict()["time_emb.minute_embed.emb.weight"]
    assert weight[0].tolist() == [0.0, 1.0] * 16
    angle = torch.tensor(7 * 10000 ** (-2 / 32))
    torch.testing.assert_close(weight[7, 2:4], torch.stack((angle.sin(), angle.cos())))
    assert not any(p.requires_grad for p in model.time_emb.parameters())


def test_sampled_query_has_no_gradient_and_obeys_its_generator(predictor: Kronos) -> None:
    """A gradient through the sampled s1 is not the published training; an unseeded one does not resume."""
    s1, s2, stamp = tokens()
    a, b = (predictor(s1, s2, stamp, generator=torch.Generator().manual_seed(9))[1] for _ in range(2))
    other = predictor(s1, s2, stamp, generator=torch.Generator().manual_seed(8))[1]
    assert torch.equal(a, b) and not torch.equal(a, other)
    a.sum().backward()
    assert predictor.head.proj_s1.weight.grad is None


def test_sampled_query_follows_its_softmax() -> None:
    """Chi-square, 7 degrees of freedom: a fair sampler exceeds 29.9 once in 10,000 seeds; the seed is
    fixed.
    """
    logits = torch.randn(8, generator=torch.Generator().manual_seed(1))
    drawn = sample_categorical(logits.expand(100_000, -1), torch.Generator().manual_seed(0))
    expected = logits.softmax(0) * 100_000
    assert ((torch.bincount(drawn, minlength=8) - expected) ** 2 / expected).sum() < 29.9


@pytest.mark.parametrize("name", [*DROPOUTS, "token_dropout_p"])
def test_every_dropout_acts_in_training_only(name: str) -> None:
    """A dropout that is read but not applied, or applied in evaluation mode, was a known fault."""
    torch.manual_seed(0)
    model = Kronos(**(PREDICTOR | {name: 0.5}))
    s1, s2, stamp = tokens()

    def differs(compute: Callable[[], Tensor]) -> bool:
        return not torch.equal(compute(), compute())

    assert differs(lambda: model.train()(s1, s2, stamp, s1)[1])
    assert not differs(lambda: model.eval()(s1, s2, stamp, s1)[1])
    if name in DROPOUTS:
        tokenizer = KronosTokenizer(**(TOKENIZER | {name: 0.5}))
        assert differs(lambda: tokenizer.train()(bars()).full)
        assert not differs(lambda: tokenizer.eval()(bars()).full)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_training_step_never_waits_for_the_gpu(tokenizer: KronosTokenizer, predictor: Kronos) -> None:
    """One hidden .item() per step leaves the GPU idle while Python catches up."""
    tokenizer, predictor = tokenizer.cuda(), predictor.cuda()
    x, (s1, s2, stamp) = bars().cuda(), (t.cuda() for t in tokens())
    generator = torch.Generator("cuda").manual_seed(0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tokenizer.loss(x).total.backward()
        predictor.loss(s1, s2, stamp, teacher_forcing=False, generator=generator).total.backward()
        tokenizer.decode(*tokenizer.encode(x))
    finally:
        torch.cuda.set_sync_debug_mode("default")
