"""A small predictor learns what a larger one believes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_objectives import PREDICTOR, batch_of, mean_loss, predictor_objective
from tiny import tiny_config, tiny_store

from kronos.config import Config
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer
from kronos.training.folder import read_summary
from kronos.training.objectives import PredictorObjective
from kronos.training.stages import run_stage
from kronos.training.teacher import of_every_second_block


def network(seed: int, **changes: Any) -> Kronos:
    torch.manual_seed(seed)
    return Kronos(**PREDICTOR | changes)


def taught(weight: float, seed: int = 9) -> PredictorObjective:
    """The objective of the tests beside a teacher with other weights."""
    teacher = network(seed).requires_grad_(False)
    return predictor_objective(teacher=teacher, teacher_weight=weight)


# -- the loss ------------------------------------------------------------------------------------------------
def test_the_divergence_is_that_of_both_heads() -> None:
    """By its definition, sum p (log p - log q), and half of the sum of two tokens."""
    objective, batch = taught(1.0), batch_of()
    objective.eval()
    s1, s2 = objective.tokenizer.encode(batch["x"])
    given = s1[:, :-1], s2[:, :-1], batch["stamp"][:, :-1], s1[:, 1:]
    assert objective.teacher is not None
    expected = torch.zeros(())
    for theirs, own in zip(objective.teacher(*given), objective.predictor(*given), strict=True):
        p = theirs.softmax(-1)
        expected = expected + (p * (p.log() - own.log_softmax(-1))).sum(-1).mean() / 2
    torch.testing.assert_close(mean_loss(objective, batch), expected, rtol=1e-4, atol=1e-6)


def test_the_weight_mixes_both_losses() -> None:
    batch = batch_of()
    alone, only, half = (mean_loss(taught(weight).eval(), batch) for weight in (0.0, 1.0, 0.5))
    torch.testing.assert_close(half, (alone + only) / 2)
    torch.testing.assert_close(alone, mean_loss(predictor_objective().eval(), batch))


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    objective, batch = taught(1.0, seed=2).eval(), batch_of()
    loss = mean_loss(objective, batch)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert (
        max(float(p.grad.abs().max()) for p in objective.predictor.parameters() if p.grad is not None) < 1e-5
    )


def test_the_teacher_stays_as_it_is() -> None:
    """No dropout in what it teaches, no gradient, and history counts for it as for the loss."""
    teacher = network(9, ffn_dropout_p=0.5, token_dropout_p=0.5).requires_grad_(False)
    objective = predictor_objective(teacher=teacher, teacher_weight=1.0, history_loss_weight=0.0)
    objective.train()
    assert objective.predictor.training and not teacher.training
    batch = batch_of()
    first, second = (objective(batch, lambda t: t)["teacher"] for _ in range(2))
    assert torch.equal(first, second) and first > 0
    mean_loss(objective, batch).backward()
    assert all(p.grad is None for p in teacher.parameters())
    sums = objective(batch, lambda t: t)
    values = objective.report({name: [float(value.detach())] for name, value in sums.items()})
    assert values["teacher_divergence"] == pytest.approx(float(first / sums["weight"]), rel=1e-5)


def test_learning_brings_it_nearer() -> None:
    objective, batch = taught(1.0), batch_of()
    optimiser = torch.optim.AdamW(objective.predictor.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = mean_loss(objective, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# -- where a student starts ----------------------------------------------------------------------------------
def test_every_second_block() -> None:
    """Blocks 0 and 2 of three; all else is the teacher's."""
    teacher = network(3, n_layers=3)
    student = of_every_second_block(teacher)
    assert student.config == replace(teacher.config, n_layers=2) and student.training
    own, theirs = student.state_dict(), teacher.state_dict()
    assert torch.equal(own["transformer.1.ffn.w1.weight"], theirs["transformer.2.ffn.w1.weight"])
    assert torch.equal(own["transformer.0.ffn.w1.weight"], theirs["transformer.0.ffn.w1.weight"])
    assert torch.equal(own["head.proj_s2.weight"], theirs["head.proj_s2.weight"])
    own["norm.weight"].add_(1)
    assert not torch.equal(own["norm.weight"], theirs["norm.weight"])


# -- a run ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def teaching(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A trained pair."""
    folder = tmp_path_factory.mktemp("teacher")
    config = tiny_config(folder)
    store = tiny_store(Path(config.data.store))
    for stage in ("tokenizer", "basemodel"):
        assert run_stage(config, stage, store) == "complete"  # type: ignore[arg-type]
    return config


def student_of(teaching: Config, folder: Path, **training: Any) -> Config:
    """A run on the teacher's data and tokenizer."""
    paths = replace(
        teaching.model_paths,
        base_save_path=str(folder),
        finetuned_tokenizer=str(teaching.tokenizer_dir / "best_model"),
    )
    settings = {"teacher": str(teaching.basemodel_dir / "best_model")} | training
    experiment = replace(teaching.experiment, train_tokenizer=False)
    own = replace(teaching.training, **settings)
    return replace(teaching, model_paths=paths, training=own, experiment=experiment)


@pytest.mark.parametrize("start", [False, True])
def test_a_run_with_a_teacher(teaching: Config, tmp_path: Path, start: bool) -> None:
    config = student_of(teaching, tmp_path, teacher_start=start)
    assert run_stage(config, "basemodel", tiny_store(Path(config.data.store))) == "complete"
    summary = read_summary(config.basemodel_dir)
    assert summary is not None and summary["facts"]["training.teacher"] == config.training.teacher
    student = Kronos.from_pretrained(config.basemodel_dir / "best_model")
    teacher = Kronos.from_pretrained(config.training.teacher)
    if start:
        assert student.config.n_layers == -(-teacher.config.n_layers // 2)
    assert "teacher_divergence" in (config.basemodel_dir / "metrics.jsonl").read_text()
    again = replace(config, training=replace(config.training, teacher_weight=0.9))
    with pytest.raises(KitError, match=r"training\.teacher_weight: saved 0\.5, now 0\.9"):
        run_stage(again, "basemodel", tiny_store(Path(config.data.store)))


def test_a_teacher_of_other_tokens_is_refused(teaching: Config, tmp_path: Path) -> None:
    """Its probabilities are those of other bars, and nothing else would show it."""
    other = KronosTokenizer.from_pretrained(teaching.tokenizer_dir / "best_model")
    with torch.no_grad():
        other.quant_embed.weight.mul_(-1)
    other.save_pretrained(tmp_path / "other")
    config = student_of(teaching, tmp_path)
    paths = replace(config.model_paths, finetuned_tokenizer=str(tmp_path / "other"))
    with pytest.raises(KitError, match="expected a predictor of this run's tokenizer"):
        run_stage(replace(config, model_paths=paths), "basemodel", tiny_store(Path(config.data.store)))


def test_logits_far_apart_stay_numbers() -> None:
    """The log-softmax of both, not the log of a probability that became 0."""
    objective = taught(1.0)
    with torch.no_grad():
        objective.predictor.head.proj_s1.weight.mul_(1e4)
    loss = mean_loss(objective.eval(), batch_of())
    assert torch.isfinite(loss) and loss > 0
