"""The original's names and results: golden figures, its two examples and its two fine-tuning loops on small
weights.
"""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_golden import GOLDEN

from kronos import compat
from kronos.errors import KitError

NETWORKS = {"a": (6, 6), "b": (6, 4)}


class Case:
    def __init__(self, name: str) -> None:
        self.tokenizer = compat.KronosTokenizer.from_pretrained(GOLDEN / name / "tokenizer")
        self.model = compat.Kronos.from_pretrained(GOLDEN / name / "predictor")
        with np.load(GOLDEN / name / "golden.npz") as arrays:
            self.expected = {key: arrays[key] for key in arrays.files}

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.expected[name])

    def check(self, name: str, found: torch.Tensor) -> None:
        np.testing.assert_allclose(
            found.detach().numpy(), self.expected[name], rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.fixture(scope="module", params=["a", "b"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_the_tokenizer(case: Case) -> None:
    """Indices, both reconstructions, the quantiser's loss, under the original's names."""
    x = case.tensor("x")
    (coarse, full), loss, quantized, indices = case.tokenizer(x)
    for name, found in (
        ("tok_train_z_pre", coarse),
        ("tok_train_z", full),
        ("tok_bsq_loss", loss),
        ("tok_quantized", quantized),
    ):
        case.check(name, found)
    assert torch.equal(indices, case.tensor("enc_full")) and torch.equal(
        case.tokenizer.encode(x), case.tensor("enc_full")
    )
    s1, s2 = case.tokenizer.encode(x, half=True)
    assert torch.equal(s1, case.tensor("enc_s1")) and torch.equal(s2, case.tensor("enc_s2"))
    case.check("dec_full", case.tokenizer.decode(case.tensor("enc_full")))
    case.check("dec_full", case.tokenizer.decode([s1, s2], half=True))
    case.check("rand_dec", case.tokenizer.decode(case.tensor("rand_full")))
    with pytest.raises(KitError, match="found a pair; pass half=True"):
        case.tokenizer.decode([s1, s2])


def test_the_predictor(case: Case) -> None:
    """Teacher-forced logits and loss, and one step of generation."""
    s1, s2, stamp = case.tensor("enc_s1"), case.tensor("enc_s2"), case.tensor("stamp")[:, :24]
    given = s1[:, :-1], s2[:, :-1], stamp[:, :-1]
    logits = case.model(*given, use_teacher_forcing=True, s1_targets=s1[:, 1:])
    case.check("lm_train_s1_logits", logits[0])
    case.check("lm_train_s2_logits", logits[1])
    losses: Any = case.model.head.compute_loss(*logits, s1[:, 1:], s2[:, 1:])  # type: ignore[operator]
    case.check("lm_loss", torch.stack(losses))
    s1_logits, context = case.model.decode_s1(s1, s2, stamp)
    case.check("dec_s1_logits", s1_logits)
    case.check("dec_context", context)
    pick = case.tensor("dec_s1_pick").view(len(s1), 1)
    found = case.model.decode_s2(context, pick)
    case.check(
        "dec_s2_logits_last_original", found[:, -1].view(case.expected["dec_s2_logits_last_original"].shape)
    )
    assert torch.equal(compat.sample_from_logits(s1_logits[:, -1], temperature=1.0, top_k=1, top_p=1.0), pick)
    with pytest.raises(KitError, match="expected no padding_mask"):
        case.model.decode_s1(s1, s2, stamp, torch.ones(3, 24))
    with pytest.raises(KitError, match="expected s1_targets"):
        case.model(*given, use_teacher_forcing=True)


def test_inference(case: Case) -> None:
    """Eight greedy steps give the original's tokens, here decoded to bars."""
    x, stamp = case.tensor("x")[:, :16], case.tensor("stamp")
    found = compat.auto_regressive_inference(
        case.tokenizer, case.model, x, stamp[:, :16], stamp[:, 16:24], 24, 8, top_k=1, sample_count=2
    )
    drawn = [case.tensor(f"gen_original_{name}") for name in ("s1", "s2")]
    with torch.no_grad():
        expected = case.tokenizer.decode(drawn, half=True)
    assert found.shape == (3, 24, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "weight"),
    [
        ("tokenizer", "embed.weight"),
        ("model", "head.proj_s1.weight"),
        ("model", "embedding.fusion_proj.bias"),
    ],
)
def test_weights_that_are_not_finite_give_no_answer(network: str, weight: str) -> None:
    """Tokens drawn from NaN look like any others."""
    case = Case("a")
    with torch.no_grad():
        getattr(case, network).get_parameter(weight).fill_(torch.nan)
    x, stamp = case.tensor("x")[:, :16], case.tensor("stamp")
    given: tuple[Any, ...] = (case.tokenizer, case.model, x, stamp[:, :16], stamp[:, 16:24], 24, 8)
    for settings in ({"top_k": 1}, {"T": 1.0, "sample_count": 3}):
        assert np.isnan(compat.auto_regressive_inference(*given, **settings)).all()


def test_the_originals_examples_run() -> None:
    """One series, a batch of them, and without volume, with the import alone changed."""
    case = Case("a")
    predictor = compat.KronosPredictor(case.model, case.tokenizer, device="cpu", max_context=24)
    series = pd.read_csv(GOLDEN / "series.csv", parse_dates=["timestamps"])
    known, ahead = series.timestamps[:16], series.timestamps[16:24]
    columns = ["open", "high", "low", "close", "volume", "amount"]
    given = dict(pred_len=8, T=1.0, top_k=1, top_p=0.9, sample_count=1, verbose=False)
    one = predictor.predict(df=series.loc[:15, columns], x_timestamp=known, y_timestamp=ahead, **given)  # type: ignore[arg-type]
    expected = case.expected["predict_greedy_ctx16"]
    np.testing.assert_allclose(
        one / np.abs(expected).max(0), expected / np.abs(expected).max(0), rtol=1e-5, atol=1e-5
    )
    tables = [series.loc[:15, columns], series.loc[:15, columns[:4]]]
    many = predictor.predict_batch(
        df_list=tables,
        x_timestamp_list=[known, known],
        y_timestamp_list=[ahead, ahead],
        **given,  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(many[0], one, rtol=1e-4)
    expected = case.expected["predict_greedy_novolume"]
    np.testing.assert_allclose(many[1].close, expected[:, 3], rtol=1e-4)


def test_the_originals_loops_learn() -> None:
    """Both fine-tuning loops as the original writes them: a loss that falls."""
    case = Case("b")
    x, stamp = case.tensor("x"), case.tensor("stamp")[:, :24]
    tokenizer, model = case.tokenizer.train(), case.model.train()
    optimizer, losses = torch.optim.AdamW(tokenizer.parameters(), lr=1e-3), []
    for _ in range(8):
        zs, bsq_loss, _, _ = tokenizer(x)
        loss = (sum(torch.nn.functional.mse_loss(z, x) for z in zs) + bsq_loss) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    torch.manual_seed(0)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    with torch.no_grad():
        token_seq_0, token_seq_1 = tokenizer.eval().encode(x, half=True)
    for _ in range(8):
        logits = model(token_seq_0[:, :-1], token_seq_1[:, :-1], stamp[:, :-1])
        loss, _s1, _s2 = model.head.compute_loss(*logits, token_seq_0[:, 1:], token_seq_1[:, 1:])  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_sampling_from_logits() -> None:
    """Filters and temperature keep what they should; top_k takes the place of top_p."""
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(4000, 1)
    torch.manual_seed(0)
    drawn = compat.sample_from_logits(logits)
    assert drawn.shape == (4000, 1)
    share = torch.bincount(drawn[:, 0], minlength=4) / 4000
    torch.testing.assert_close(share, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.04, rtol=0)
    assert set(compat.sample_from_logits(logits, top_k=2, top_p=0.1).unique().tolist()) == {0, 1}
    assert set(compat.sample_from_logits(logits, top_p=0.6).unique().tolist()) == {0, 1}
    assert (compat.sample_from_logits(logits, temperature=0.0) == 0).all()
    assert (compat.sample_from_logits(logits, sample_logits=False) == 0).all()
    logits[:, 0] = -torch.inf  # the caller may have filtered
    assert (compat.sample_from_logits(logits) > 0).all()
    for bad in (torch.nan, torch.inf):
        logits[7, 1] = bad
        for given in ({}, {"temperature": 0.0}, {"top_k": 2}, {"sample_logits": False}):
            with pytest.raises(KitError, match="expected finite logits, found NaN or infinity"):
                compat.sample_from_logits(logits, **given)  # type: ignore[arg-type]
