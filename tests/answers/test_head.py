"""The head: batches of whole dates, channels, what it learns, and that it is causal, purged, resumable and
exact.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from panels import WEEKDAYS, random_series, store_in_memory
from safetensors.torch import load_file
from tiny import PREDICTOR, TOKENIZER, tiny_config
from training_worker import record, work

from kronos.answers.answerer import ask
from kronos.answers.head import HeadAnswerer
from kronos.config import Config
from kronos.data.channels import CHANNELS, FIGURES, ChannelReader
from kronos.data.date_batches import DateIndex, future_returns, rank_within, rows_by_date
from kronos.data.splits import Part
from kronos.data.store import BarStore
from kronos.data.store_writer import store_from_dict
from kronos.errors import KitError
from kronos.evaluation.backtest import Options, run_backtest
from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.head import Head
from kronos.training.folder import read_summary
from kronos.training.head import HeadObjective, correlation, sign_entropy
from kronos.training.head_data import DateBatches, HeadData, all_horizons
from kronos.training.loop import Trainer
from kronos.training.stages import run_stage

HORIZONS = [1, 3]


def planted_store(
    path: Path, tickers: int = 40, days: int = 160, signal: float = 0.4, seed: int = 0
) -> BarStore:
    """A market in which today's volume tells tomorrow's return, and the market moves all stocks together."""
    rng = np.random.default_rng(seed)
    dates = WEEKDAYS[:days].astype("datetime64[s]")
    heavy = rng.choice([-1.0, 1.0], (days, tickers))
    change = 0.02 * rng.normal(size=(days, tickers)) + 0.02 * rng.normal(size=(days, 1))
    change[1:] += 0.02 * signal * heavy[:-1]
    close = 50 * np.exp(np.cumsum(change, axis=0))
    volume = np.exp(10 + 0.6 * heavy + 0.05 * rng.normal(size=(days, tickers)))
    bars = np.stack([close, close * 1.01, close * 0.99, close, volume, volume * close], axis=2).astype(
        np.float32
    )
    return store_from_dict(path, {f"T{k:03d}": (dates, bars[:, k]) for k in range(tickers)})


def head_config(folder: Path, processes: int = 1, **settings: Any) -> Config:
    base: dict[str, Any] = {
        "head__inputs": "bars",
        "head__horizons": HORIZONS,
        "head__bar_lookback": 12,
        "head__patch": 3,
        "head__token_lookback": 12,
        "head__width": 16,
        "head__layers": 2,
        "head__dropout": 0.0,
        "head__every": 2,
        "head__dates_per_batch": 4,
        "head__stocks_per_date": 16,
        "head__validation_stocks": 24,
        "head__dates_per_epoch": 10,
        "training__head_epochs": 2,
        "inference__horizon": 3,
        "data__embargo": 3,
        "distributed__num_processes": processes,
    }
    return tiny_config(folder, **{**base, **settings})


def new_head(inputs: str = "both", **settings: Any) -> Head:
    """A small head with random weights, the same everywhere."""
    torch.manual_seed(5)
    tokens = inputs != "bars"
    head = Head.on(
        Kronos(**PREDICTOR) if tokens else None,
        KronosTokenizer(**TOKENIZER) if tokens else None,
        **{
            "inputs": inputs,
            "horizons": HORIZONS,
            "asked": 3,
            "lookback": 12,
            "patch": 3,
            "channels": len(CHANNELS),
            "figures": len(FIGURES),
            "width": 16,
            "layers": 2,
            "heads": 4,
            "ff_dim": 32,
            "dropout_p": 0.0,
            "token_lookback": 12,
            "clip": 5.0,
            "norm_epsilon": "absolute",
            "frozen": False,
            **settings,
        },
    )
    torch.nn.init.normal_(head.sign.weight, std=0.3)
    return head.eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> BarStore:
    return planted_store(tmp_path_factory.mktemp("planted") / "store")


# -- channels and labels -------------------------------------------------------------------------------------
def test_channels_say_what_they_are_called(store: BarStore) -> None:
    """Against the plain formulas, for one row in the middle of a ticker."""
    lookback, row = 12, int(store.offsets[3]) + 60
    found = ChannelReader(store, lookback)(np.array([row]))
    past = store.bars[row - lookback : row + 1].astype(np.float64)
    change = np.diff(np.log(past[:, 3]))
    session = store.session[row - lookback + 1 : row + 1]
    market = []
    for day in session:
        rows = np.flatnonzero(store.session == day)
        market.append(np.log(store.bars[rows, 3] / store.bars[rows - 1, 3].astype(np.float64)).mean())
    np.testing.assert_allclose(found.series[0, :, 3], change / change.std(), rtol=1e-4)
    np.testing.assert_allclose(found.series[0, :, 4], (change - market) / change.std(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        found.series[0, :, 1], np.log(past[1:, 1] / past[:-1, 3]) / change.std(), rtol=1e-4
    )
    volume = np.log1p(past[1:, 4])
    np.testing.assert_allclose(found.series[0, :, 5], volume - volume.mean(), atol=1e-5)
    assert (found.series[0, :, 7] == 1).all() and found.figures[0, 2] == 1


def test_channels_do_not_depend_on_price_volume_or_volatility_units(tmp_path: Path) -> None:
    """The same path at a hundred times the price, with ten times the shares: the same series."""
    dates = WEEKDAYS[:60].astype("datetime64[s]")
    _, bars = random_series(np.random.default_rng(3), 1, 200)["t000"]
    bars = np.resize(bars, (60, 6)).astype(np.float32) + 5
    dear = bars * np.array([100, 100, 100, 100, 1, 1], np.float32)
    both = store_from_dict(tmp_path / "store", {"A": (dates, bars), "B": (dates, dear)})
    found = ChannelReader(both, 20)(np.array([50, 110]))
    np.testing.assert_allclose(found.series[0, :, :4], found.series[1, :, :4], atol=1e-3)


def test_channels_are_marked_where_history_is_short(store: BarStore) -> None:
    row = int(store.offsets[2]) + 4
    found = ChannelReader(store, 12)(np.array([row]))
    assert (found.series[0, :7] == 0).all() and found.series[0, 7:, 7].tolist() == [1] * 5
    assert found.series[0, 7, 3] == 0, (
        "the first bar of a ticker has no return, whatever the bar before it in the store"
    )
    assert found.figures[0, 2] == pytest.approx(5 / 12)


def test_labels_are_the_returns_of_the_trading_day_asked_for() -> None:
    """With halts and tickers that end: only a bar on the very day counts, and only inside one unbroken run of
    bars.
    """
    for case in range(30):
        rng = np.random.default_rng(case)
        store = store_in_memory(random_series(rng, 4, 80))
        rows = np.arange(len(store))
        found = future_returns(store, rows, [1, 5, 30])
        for row in rng.choice(len(store), min(20, len(store)), replace=False):
            ticker = np.searchsorted(store.offsets, row, side="right") - 1
            for k, horizon in enumerate((1, 5, 30)):
                own = np.arange(store.offsets[ticker], store.offsets[ticker + 1])
                target = own[store.session[own] == store.session[row] + horizon]
                expected = np.log(store.bars[target, 3].astype(float) / float(store.bars[row, 3]))
                assert found[row, k] == pytest.approx(expected[0]) if len(target) else np.isnan(found[row, k])
    broken = dataclasses.replace(store, segments=np.array([[0, 3], [3, len(store)]]))
    assert np.isnan(future_returns(broken, np.array([2]), [1])).all(), (
        "a label must not cross what cleaning cut"
    )


def test_ranks_share_ties_and_leave_out_what_is_unknown() -> None:
    assert rank_within(np.array([3.0, np.nan, 1.0, 3.0, 2.0])).tolist()[1:] != []
    np.testing.assert_allclose(
        rank_within(np.array([3.0, np.nan, 1.0, 3.0, 2.0])), [0.25, np.nan, -0.375, 0.25, -0.125]
    )
    assert np.isnan(rank_within(np.array([np.nan]))).all()


def test_no_label_of_training_ends_on_or_after_the_first_validation_day(
    store: BarStore, tmp_path: Path
) -> None:
    """The purge, for the longest horizon; and validation's labels end in the validation part."""
    config = head_config(tmp_path, head__horizons=[1, 20], head__every=1, data__embargo=3)
    data = HeadData.of(config, store)
    first = data.splits.validation.first
    assert max(all_horizons(config)) == 20
    assert data.train.sessions.max() + 20 < first, "a label of training ends inside the validation part"
    assert data.train.sessions.max() + 20 == data.splits.train.last, (
        "the newest labelled date of training is used"
    )
    assert (
        data.validation.sessions.min() >= first
        and data.validation.sessions.max() + 20 <= data.splits.validation.last
    )


def test_a_part_without_a_date_is_refused(store: BarStore) -> None:
    with pytest.raises(
        KitError,
        match=r"expected a date with at least 8 stocks .* lower head\.bar_lookback or head\.horizons",
    ):
        DateIndex.build(store, Part("validation", 100, 110), [30], 1, 12)


def test_batches_are_whole_dates_and_a_function_of_seed_and_step(store: BarStore, tmp_path: Path) -> None:
    """A micro-batch is one date; another visit draws other stocks; the ranks are those among all stocks of
    the date.
    """
    config = head_config(tmp_path, head__dates_per_epoch=None)
    data = HeadData.of(config, store)

    def made(seed: int = 1) -> DateBatches:
        return DateBatches(config, store, data.train, data.plan, 0, 16, seed)

    one, other = made()[7], made()[7]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(set(store.session[one["row"].numpy().ravel()])) == 1, "stocks of one date"
    assert not torch.equal(one["row"], made(seed=2)[7]["row"])
    day = store.session[int(one["row"][0, 0])]
    rows, _ = rows_by_date(store, np.array([day]))
    returns = future_returns(store, rows, all_horizons(config))
    ranks = {int(r): rank_within(returns[:, 1])[k] for k, r in enumerate(rows)}
    np.testing.assert_allclose(one["rank"][0, :, 1], [ranks[int(r)] for r in one["row"][0]], rtol=1e-6)
    assert data.plan.accumulation == 4 and len(made()) == 4 * data.plan.total_steps


# -- the loss ------------------------------------------------------------------------------------------------
def test_the_loss_knows_nothing_of_the_level_of_a_date() -> None:
    """Scores and logits moved by a constant on a date change neither loss within it: the market's luck
    teaches nothing.
    """
    generator = torch.Generator().manual_seed(0)
    score, rank = torch.randn(2, 3, 20, 2, generator=generator)
    weight = (torch.rand(3, 20, 2, generator=generator) > 0.2).float()
    rise = (rank > 0).float()
    moved = score + torch.tensor([1.0, -2.0, 5.0])[:, None, None]
    torch.testing.assert_close(correlation(score, rank, weight), correlation(3 * moved, rank, weight))
    own = np.corrcoef(*(t[1, :, 0].numpy()[weight[1, :, 0] > 0] for t in (score, rank)))[0, 1]
    assert float(correlation(score, rank, weight)[1, 0]) == pytest.approx(own, abs=1e-5)
    a, b = score.clone().requires_grad_(), moved.clone().requires_grad_()
    sign_entropy(a, rise, weight).sum().backward()
    sign_entropy(b, rise, weight).sum().backward()
    within = [
        t.grad - t.grad.sum(1, keepdim=True) / weight.sum(1, keepdim=True)
        for t in (a, b)
        if t.grad is not None
    ]
    torch.testing.assert_close(within[0] * weight, within[1] * weight, rtol=1e-4, atol=1e-6)


# -- the network ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("inputs", ["tokens", "bars", "both"])
def test_a_saved_head_answers_as_before(inputs: str, tmp_path: Path, store: BarStore) -> None:
    """With everything it reads in one folder: the tokenizer and the predictor too."""
    head = new_head(inputs)
    head.save_pretrained(tmp_path / "head")
    assert {p.name for p in (tmp_path / "head").iterdir()} == {"config.json", "model.safetensors"}
    rows = asked(store, 100)
    before, after = (answerer(h).answer(store, rows) for h in (head, Head.from_pretrained(tmp_path / "head")))
    assert np.array_equal(before.score, after.score) and len(np.unique(before.score)) > 30


def test_the_state_is_the_predictors_last_one() -> None:
    """The last block computes one position only: the same numbers as the whole context."""
    head = new_head("tokens")
    x, stamp = torch.randn(4, 12, 6), torch.ones(4, 12, 5)
    s1, s2 = head.tokenizer.encode(x)
    with torch.no_grad():
        torch.testing.assert_close(
            head.state(x, stamp), head.trunk.context(s1, s2, stamp)[:, -1], rtol=1e-5, atol=1e-6
        )


def test_a_bad_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KitError, match=r"lookback a multiple of head\.patch, found 12 and 5"):
        new_head("bars", patch=5)
    with pytest.raises(KitError, match="asked among the horizons, found 7"):
        new_head("bars", asked=7)
    with pytest.raises(KitError, match="together with its tokenizer"):
        Head.on(Kronos(**PREDICTOR), None)


# -- the answerer --------------------------------------------------------------------------------------------
def answerer(head: Head, **settings: Any) -> HeadAnswerer:
    return HeadAnswerer(head, torch.device("cpu"), **settings)


def asked(store: BarStore, session: int, horizon: int = 3) -> Any:
    """Every ticker as of one trading day."""
    date = np.full(len(store.tickers), store.sessions[session] + np.timedelta64(1, "s"))
    return ask(store, store.tickers, date + np.timedelta64(1, "D"), "NYSE", horizon)


def compared_with_another_future(head: HeadAnswerer, case: int) -> int:
    """Answers of one random market as of one date, with its future and with another one, bit for bit; how
    many there were.
    """
    rng = np.random.default_rng(case)
    series = random_series(rng, 6, 120)
    origin = WEEKDAYS[int(rng.integers(60, 118))]
    changed = {}
    for name, (dates, bars) in series.items():
        past = dates <= origin
        later = random_series(rng, 1, 120)["t000"]
        later = (later[0][later[0] > origin], later[1][later[0] > origin])
        changed[name] = (np.concatenate([dates[past], later[0]]), np.concatenate([bars[past], later[1]]))
    answers = []
    for each in (series, {name: value for name, value in changed.items() if len(value[0])}):
        store = store_in_memory(each)
        names = [name for name, (dates, _) in series.items() if (dates <= origin).any()]
        rows = ask(store, names, np.full(len(names), origin + np.timedelta64(1, "D")), "NYSE", 3)
        answers.append(head.answer(store, rows))
    assert answers[0].score.tobytes() == answers[1].score.tobytes(), f"case {case}"
    assert answers[0].prob is not None and answers[1].prob is not None
    assert answers[0].prob.tobytes() == answers[1].prob.tobytes(), f"case {case}"
    return int(np.isfinite(answers[0].score).sum())


@pytest.mark.parametrize("inputs", ["tokens", "bars", "both"])
def test_future_rows_change_no_bit_of_an_answer(inputs: str) -> None:
    """Everything after the date replaced: bars, tickers' ends and trading days."""
    head = answerer(new_head(inputs))
    compared = sum(compared_with_another_future(head, case) for case in range(25))
    assert compared > 40, "the cases must hold answers to compare"


@pytest.mark.slow
def test_a_thousand_futures_change_no_bit_of_an_answer() -> None:
    head = answerer(new_head("both"))
    assert sum(compared_with_another_future(head, case) for case in range(1000)) > 2000


def test_rows_that_cannot_be_answered_have_a_reason(
    store: BarStore, caplog: pytest.LogCaptureFixture
) -> None:
    """An unknown ticker, too few bars; and another horizon than the trained ones is said."""
    rows = ask(store, ["T000", "nobody", "T001"], store.sessions[[100, 100, 20]], "NYSE", 2)
    answer = answerer(new_head()).answer(store, rows)
    assert answer.reason.tolist() == ["", "unknown ID", "too few bars"]
    assert np.isfinite(answer.score).tolist() == [True, False, False]
    assert "not trained for 2 trading days ahead; the answer is that for 3" in caplog.text
    bad = dataclasses.replace(store, bars=store.bars.copy())
    bad.bars[int(rows.last[0]) - 3, 3] = np.nan
    assert answerer(new_head()).answer(bad, rows).reason.tolist()[0] == "non-finite bars"


@pytest.mark.parametrize(
    ("weight", "value"),
    [
        ("tokenizer.embed.weight", np.nan),
        ("tokenizer.quant_embed.weight", 1e30),
        ("trunk.embedding.fusion_proj.bias", np.nan),
        ("trunk.transformer.0.ffn.w2.weight", 1e25),
        ("patches.bias", 1e25),
        ("sign.weight", -np.inf),
    ],
)
def test_numbers_that_overflow_are_no_answer(store: BarStore, weight: str, value: float) -> None:
    """A norm makes 0 of what overflowed, and a vector of NaN has signs, too: both gave sound-looking scores."""
    head, rows = new_head(), asked(store, 100)
    with torch.no_grad():
        head.get_parameter(weight).fill_(value)
    answer = answerer(head).answer(store, rows)
    assert np.isnan(answer.score).all() and set(answer.reason.tolist()) == {"non-finite forecast"}


def test_answers_do_not_depend_on_the_batch(store: BarStore) -> None:
    rows = asked(store, 100)
    one, many = (answerer(new_head(), batch_size=size).answer(store, rows) for size in (7, 256))
    np.testing.assert_allclose(one.score, many.score, rtol=1e-4, atol=1e-5)


def test_no_bit_of_a_date_depends_on_other_dates(store: BarStore) -> None:
    """The submission asks one date, the backtest many: the same rows have the same bits."""
    head = answerer(new_head())
    first, second = asked(store, 100), asked(store, 20)  # the second has shorter histories
    dates = np.concatenate([first.date, second.date])
    both = ask(store, store.tickers * 2, dates, "NYSE", 3)
    found = head.answer(store, both).score
    assert found[: len(first)].tobytes() == head.answer(store, first).score.tobytes()


def test_a_run_without_a_finished_head_is_refused(tmp_path: Path) -> None:
    config = head_config(tmp_path)
    with pytest.raises(KitError, match="expected a trained head, found none"):
        HeadAnswerer.of_run(config, torch.device("cpu"))
    config.head_dir.mkdir(parents=True)
    (config.head_dir / "summary.json").write_text('{"status": "interrupted", "step": 3, "total_steps": 9}')
    with pytest.raises(KitError, match="found it interrupted at step 3 of 9"):
        HeadAnswerer.of_run(config, torch.device("cpu"))


def test_too_little_memory_halves_the_batch(
    store: BarStore, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """And the answers stay the same; where one sample does not fit, it is said."""
    rows, head = asked(store, 100), answerer(new_head("bars"))
    expected, whole, room = head.answer(store, rows).score, head._pass, 12

    def cramped(last: Any, tokens: Any, part: Any) -> Any:
        if len(part) > room:
            raise torch.OutOfMemoryError("full")
        return whole(last, tokens, part)

    monkeypatch.setattr(head, "_pass", cramped)
    np.testing.assert_allclose(head.answer(store, rows).score, expected, rtol=1e-4, atol=1e-5)
    assert "out of memory" in caplog.text
    room = 0
    with pytest.raises(KitError, match="one sample does not fit"):
        head.answer(store, rows)


# -- the stage -----------------------------------------------------------------------------------------------
def trained(config: Config) -> dict[str, Any]:
    """Weights and summary of a finished stage."""
    summary = read_summary(config.head_dir)
    assert summary is not None
    return {"weights": load_file(config.head_dir / "best_model" / "model.safetensors"), "summary": summary}


def pair(config: Config) -> None:
    """A finished tokenizer and predictor stage, in the run's folder."""
    from kronos import files
    from kronos.training.start import network_digest

    torch.manual_seed(5)
    tokenizer = KronosTokenizer(**TOKENIZER)
    tokenizer.save_pretrained(config.model_paths.finetuned_tokenizer)
    files.write_json(config.tokenizer_dir / "summary.json", {"status": "complete"})
    Kronos(**PREDICTOR).save_pretrained(config.basemodel_dir / "best_model")
    digest = network_digest(tokenizer, config.model_paths.finetuned_tokenizer)
    files.write_json(
        config.basemodel_dir / "summary.json", {"status": "complete", "tokenizer_digest": digest}
    )


def stopped_at(step: int) -> Any:
    """What `Trainer._agree` says when someone asks for a stop after that step."""
    return lambda trainer: ("signal", True) if trainer.progress.step == step else (None, False)


@pytest.mark.parametrize("inputs", ["both", "bars"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    inputs: str, store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout: everything random is a function of the step."""
    results = []
    for name, stops in (("whole", ()), ("stopped", (1, 4))):
        config = head_config(
            tmp_path / name,
            data__store=str(store.path),
            head__inputs=inputs,
            head__dropout=0.2,
            experiment__skip_existing=True,
        )
        if inputs == "both":
            pair(config)
        for stop in stops:
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "_agree", stopped_at(stop))
                assert run_stage(config, "head", store) == "interrupted"
        assert run_stage(config, "head", store) == "complete"
        results.append(trained(config))
    assert all(
        torch.equal(value, results[1]["weights"][name]) for name, value in results[0]["weights"].items()
    )
    assert results[0]["summary"]["best"] == results[1]["summary"]["best"]
    assert {"rank_ic_1", "rank_ic_3", "within_date_3"} <= set(results[0]["summary"]["best"]["values"])


def test_the_trunk_learns_unless_it_is_frozen_and_its_states_are_kept(
    store: BarStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Frozen: states are computed once, used again, and thrown away with the network, the data or the
    settings.
    """
    caplog.set_level("INFO")
    config = head_config(tmp_path, data__store=str(store.path), head__inputs="tokens", head__frozen=True)
    pair(config)
    start = load_file(config.basemodel_dir / "best_model" / "model.safetensors")
    run_stage(config, "head", store)
    weights = trained(config)["weights"]
    assert all(torch.equal(weights[f"trunk.{name}"], value) for name, value in start.items())
    (folder,) = (config.run_dir / "states").iterdir()
    data = HeadData.of(config, store)
    states = np.load(folder / "train.npy", mmap_mode="r")
    assert states.shape == (len(data.train.row), 16) and np.isfinite(states).all() and states.std() > 0.1
    written = (folder / "train.npy").stat().st_mtime_ns
    shutil.rmtree(config.head_dir)
    run_stage(config, "head", store)
    assert "computed before" in caplog.text and (folder / "train.npy").stat().st_mtime_ns == written
    again = dataclasses.replace(config, head=dataclasses.replace(config.head, token_lookback=10))
    shutil.rmtree(config.head_dir)
    run_stage(again, "head", store)
    assert [p.name for p in (config.run_dir / "states").iterdir()] != [folder.name], (
        "another lookback, the same states"
    )
    shutil.rmtree(config.head_dir)
    whole = dataclasses.replace(config, head=dataclasses.replace(config.head, frozen=False))
    run_stage(whole, "head", store)
    moved = trained(config)["weights"]
    assert not torch.equal(moved["trunk.embedding.emb_s1.weight"], start["embedding.emb_s1.weight"])
    assert all(torch.equal(v, weights[n]) for n, v in moved.items() if n.startswith("tokenizer.")), (
        "the tokenizer never learns"
    )


def test_a_head_needs_the_predictor_that_it_is_to_read(store: BarStore, tmp_path: Path) -> None:
    config = head_config(tmp_path, data__store=str(store.path), head__inputs="both")
    with pytest.raises(KitError, match="expected the tokenizer"):
        run_stage(config, "head", store)
    pair(config)
    (config.basemodel_dir / "summary.json").write_text(
        '{"status": "interrupted", "step": 3, "total_steps": 9}'
    )
    with pytest.raises(
        KitError, match="expected a complete predictor stage, found it interrupted at step 3 of 9"
    ):
        run_stage(config, "head", store)
    (config.basemodel_dir / "summary.json").write_text(
        '{"status": "complete", "tokenizer_digest": "another"}'
    )
    with pytest.raises(KitError, match="predictor of the present tokenizer"):
        run_stage(config, "head", store)


def test_pretrained_weights_need_no_stage_before(store: BarStore, tmp_path: Path) -> None:
    torch.manual_seed(5)
    KronosTokenizer(**TOKENIZER).save_pretrained(tmp_path / "tokenizer")
    Kronos(**PREDICTOR).save_pretrained(tmp_path / "predictor")
    config = head_config(
        tmp_path / "run",
        data__store=str(store.path),
        head__inputs="both",
        experiment__pre_trained=True,
        experiment__train_tokenizer=False,
        experiment__train_basemodel=False,
        model_paths__pretrained_tokenizer=str(tmp_path / "tokenizer"),
        model_paths__pretrained_predictor=str(tmp_path / "predictor"),
    )
    assert run_stage(config, "head", store) == "complete"
    assert trained(config)["summary"]["best"]["values"]["rank_ic_3"] is not None


def test_a_predictor_trained_again_outdates_its_head(
    store: BarStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = head_config(
        tmp_path,
        data__store=str(store.path),
        head__inputs="tokens",
        head__frozen=True,
        experiment__skip_existing=True,
    )
    pair(config)
    run_stage(config, "head", store)
    first = trained(config)["weights"]
    torch.manual_seed(6)
    Kronos(**PREDICTOR).save_pretrained(config.basemodel_dir / "best_model")
    run_stage(config, "head", store)
    assert "trained again since" in caplog.text
    assert not torch.equal(trained(config)["weights"]["trunk.norm.weight"], first["score.weight"])
    assert not torch.equal(
        trained(config)["weights"]["trunk.embedding.emb_s1.weight"], first["trunk.embedding.emb_s1.weight"]
    )


def test_the_backtest_scores_the_head_on_days_it_has_not_seen(store: BarStore, tmp_path: Path) -> None:
    """Also without a predictor; and the head's own training says where the scored days begin."""
    settings = {
        "head__horizons": [1],
        "inference__horizon": 1,
        "evaluation__every": 1,
        "data__train_ratio": 0.5,
    }
    settings |= {"data__val_ratio": 0.1, "evaluation__draws": 50, "evaluation__fitted_baselines": False}
    config = head_config(tmp_path, data__store=str(store.path), **settings)
    run_stage(config, "head", store)
    tree = run_backtest(config, Options(network=False, output=str(tmp_path / "out"))).tree
    assert tree["main"] == "head" and tree["entries"][0]["name"] == "head"
    seen = HeadData.of(config, store).splits.train.dates(store.sessions)[1]
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, train_ratio=0.4))
    again = run_backtest(other, Options(network=False, output=str(tmp_path / "out"))).tree
    for each in (tree, again):
        assert each["timeline"][0] == {**each["timeline"][0], "name": "train", "last": seen}
        assert each["dates"]["first"] > seen, "a day of the head's training is scored"


def test_two_processes_equal_one(store: BarStore, tmp_path: Path) -> None:
    """In float64: gradients of every step, weights and validation. A date belongs to one process, whole."""
    one = record(head_config(tmp_path, data__store=str(store.path)), "head", tmp_path / "one")
    out = tmp_path / "two"
    out.mkdir()
    work(
        tmp_path,
        [
            {
                "do": "record",
                "config": head_config(tmp_path, 2, data__store=str(store.path)),
                "stage": "head",
                "out": out,
            }
        ],
    )
    first, second = (torch.load(out / f"rank{rank}.pt") for rank in (0, 1))
    assert [sorted(a + b) for a, b in zip(first["rows"], second["rows"], strict=True)] == one["rows"]
    assert len(one["grads"]) == 6 and one["rows"][2] and len(one["rows"][2]) < len(one["rows"][0]), (
        "the last step is shorter"
    )
    for step, (grads, expected) in enumerate(zip(first["grads"], one["grads"], strict=True)):
        for a, b in zip(grads, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=f"gradient of step {step}")
    for name, value in first["weights"].items():
        torch.testing.assert_close(value, one["weights"][name], rtol=0, atol=1e-6, msg=name)
    assert first["best"]["value"] == pytest.approx(one["best"]["value"], rel=1e-7)
    with pytest.raises(KitError, match="expected a multiple of the 3 processes"):
        HeadData.of(head_config(tmp_path, 3), store)


@pytest.mark.slow
def test_it_finds_what_logistic_regression_finds(tmp_path: Path) -> None:
    """At least 90 % of that edge, one day ahead, on days that neither has seen: volume tells, the market's
    day does not.
    """
    from sklearn.linear_model import LogisticRegression

    store = planted_store(tmp_path / "store", tickers=80, days=400)
    settings = {
        "head__horizons": [1],
        "inference__horizon": 1,
        "head__every": 1,
        "head__dates_per_epoch": 240,
    }
    settings |= {
        "training__head_epochs": 3,
        "head__learning_rate": 3e-3,
        "head__stocks_per_date": 80,
        "data__val_ratio": 0.1,
    }
    config = head_config(tmp_path, data__store=str(store.path), **settings)
    assert run_stage(config, "head", store) == "complete"
    data = HeadData.of(config, store)
    head = HeadAnswerer.open(config.head_dir / "best_model", torch.device("cpu"))
    read = ChannelReader(store, 12)
    change = future_returns(store, data.train.row, [1])[:, 0]
    classical = LogisticRegression().fit(read(data.train.row).series[:, -1, 5:6], change > 0)
    edges = []
    for session in range(data.splits.validation.last + 2, len(store.sessions) - 1):
        rows, _ = rows_by_date(store, np.array([session]))
        rise = rank_within(future_returns(store, rows, [1])[:, 0]) > 0
        ours = head.answer(store, asked(store, session, 1)).score
        theirs = classical.decision_function(read(rows).series[:, -1, 5:6])
        edges.append([((score > np.median(score)) == rise).mean() - 0.5 for score in (ours, theirs)])
    ours, theirs = np.mean(edges, axis=0)
    assert theirs > 0.1, "the market must hold something to find"
    assert ours >= 0.9 * theirs, f"head {ours:.3f}, logistic regression {theirs:.3f} above one half"


def test_the_trunk_learns_at_a_rate_of_its_own() -> None:
    """Published weights moved at the rate of a new read-out would be forgotten."""
    objective = HeadObjective(new_head("both"), sign_weight=0.5, trunk_share=0.1)
    shares = {name: objective.rate_share(name) for name, p in objective.named_parameters() if p.requires_grad}
    assert {share for name, share in shares.items() if ".trunk." in name} == {0.1}
    assert {share for name, share in shares.items() if ".trunk." not in name} == {1.0}
    assert not any("dep_layer" in name or "tokenizer" in name for name in shares), (
        "what is never read gets no gradient"
    )
