"""The third stage, which is optional: a head learns from hidden states and raw bars what is asked for, the
ranks of returns.

In: a resolved `Config`, a prepared store, and where tokens are read a predictor: this run's own, else the
pretrained one. Out: the stage's folder, as of the others; `best_model/` holds the head with everything that
it reads. The loop, its checkpoints and its promises are those of the other stages; a "window" of theirs is a
date here. The loss, of batches of whole dates (`training.head_data`): within each date, the correlation of
the scores with the ranks of the returns, and the signs. It is a sum over dates, however many stocks they
have; nothing of one date is compared with another date.

Letters: E dates, W stocks of a date, K horizons.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kronos.config import PART_DAYS, Config
from kronos.data.batch_plan import BatchPlan
from kronos.data.channels import CHANNELS, FIGURES
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.head import Head
from kronos.training.device import Streams
from kronos.training.folder import read_summary
from kronos.training.head_data import (
    HeadData,
    all_horizons,
    asked_horizon,
    frozen_states,
    head_streams,
    reads_tokens,
)
from kronos.training.objectives import Batch, Objective, Reduce, Sums
from kronos.training.optim import LoopSettings
from kronos.training.stages import StageRun
from kronos.training.start import loop_settings, network_digest

# -- the loss ------------------------------------------------------------------------------------------------
ASKED_SHARE = 0.5
"""Weight of the horizon that is asked for; the others share the rest evenly."""
LEVEL_SHARE = 0.1
"""Weight of a date's mean sign, which is the market's luck of that date, beside the signs within it."""
MIN_LABELS = 8
"""A horizon with fewer labelled stocks on a date has no loss there."""
EPSILON = 1e-6


class HeadObjective(Objective):
    """1 - correlation with the within-date rank, plus `sign_weight` times the cross entropy of the sign."""

    metric = "loss"
    unit = "dates"

    def __init__(self, head: Head, *, sign_weight: float, trunk_share: float) -> None:
        """trunk_share: learning rate of the trunk over that of the head."""
        super().__init__()
        self.head = head
        self.sign_weight, self.trunk_share = sign_weight, trunk_share
        asked = head.config.asked
        self.shares = horizon_shares(head.config.horizons, asked)
        self.shown = ("loss", "rank_loss", "sign_loss", f"rank_ic_{asked}", f"within_date_{asked}")

    def network(self) -> Head:
        """The network that learns."""
        return self.head

    def compile_training(self) -> None:
        """Use torch.compile for the training pass."""
        self.head.forward = torch.compile(self.head.forward)  # type: ignore[method-assign]

    def rate_share(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by."""
        if name.startswith("head.trunk."):
            return self.trunk_share
        return 1.0

    def weight(self, batch: Batch) -> float:
        """Dates of a batch."""
        return float(batch["real"].any(dim=1).sum())

    def forward(self, batch: Batch, reduce: Reduce) -> Sums:
        """Sums over the dates of a micro-batch; `loss` carries the gradient."""
        score, sign = self._answers(batch)
        labelled = batch["labelled"]
        counted = (labelled.sum(1) >= MIN_LABELS).float()
        shares = torch.tensor(self.shares, device=score.device) * counted
        shares = shares / shares.sum(1, keepdim=True).clamp_min(EPSILON)
        rank_loss = ((1 - correlation(score, batch["rank"], labelled)) * shares).sum()
        sign_loss = (sign_entropy(sign, batch["rise"], labelled) * shares).sum()
        loss = rank_loss + self.sign_weight * sign_loss
        weight = batch["real"].any(dim=1).float().sum()
        return {
            "loss": loss,
            "rank_loss": rank_loss.detach(),
            "sign_loss": sign_loss.detach(),
            "weight": weight,
        }

    def evaluate(self, batch: Batch) -> Sums:
        """Rank IC and accuracy within dates of every horizon, as sums over dates in float64."""
        score, _ = self._answers(batch)
        labelled = batch["labelled"]
        counted = (labelled.sum(1) >= MIN_LABELS).double()
        ic = correlation(ranks(score, labelled), batch["rank"].double(), labelled.double())
        above = (score >= _median(score, labelled)) == (batch["rank"] > 0)
        right = (above * labelled).double().sum(1) / labelled.double().sum(1).clamp_min(1)
        sums: Sums = {"weight": batch["real"].any(dim=1).double().sum()}
        for k, horizon in enumerate(self.head.config.horizons):
            sums[f"ic_{horizon}"] = (ic[:, k] * counted[:, k]).sum()
            sums[f"accuracy_{horizon}"] = (right[:, k] * counted[:, k]).sum()
            sums[f"dates_{horizon}"] = counted[:, k].sum()
        return sums

    def report(self, sums: Mapping[str, list[float]]) -> dict[str, float]:
        """Means over dates; `loss` of validation sums: 1 - rank IC, horizons weighted as in training."""
        total = sums["weight"][0]
        if "loss" in sums:
            return {name: values[0] / total for name, values in sums.items() if name != "weight"}
        values, gained, shared = {}, 0.0, 0.0
        for horizon, share in zip(self.head.config.horizons, self.shares, strict=True):
            dates = sums[f"dates_{horizon}"][0]
            if not dates:
                continue
            values[f"rank_ic_{horizon}"] = sums[f"ic_{horizon}"][0] / dates
            values[f"within_date_{horizon}"] = sums[f"accuracy_{horizon}"][0] / dates
            gained += share * values[f"rank_ic_{horizon}"]
            shared += share
        loss = float("nan")
        if shared:
            loss = 1 - gained / shared
        return {"loss": loss, **values, "weight": total}

    def _answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores and sign logits, (E, W, K) each."""
        shape = batch["real"].shape
        flat = {}
        for name in ("series", "figures", "state", "x", "stamp"):
            if name in batch:
                flat[name] = batch[name].flatten(0, 1)
        state = flat.get("state")
        if state is None and "x" in flat:
            state = self.head.state(flat["x"], flat["stamp"])
        if state is not None:
            state = state.float()
        out = self.head(flat.get("series"), flat.get("figures"), state)
        return out.score.unflatten(0, shape), out.sign.unflatten(0, shape)


def horizon_shares(horizons: Sequence[int], asked: int) -> list[float]:
    """Weights of the horizons in the loss, summing up to 1."""
    if len(horizons) == 1:
        return [1.0]
    rest = (1 - ASKED_SHARE) / (len(horizons) - 1)
    shares = []
    for horizon in horizons:
        if horizon == asked:
            shares.append(ASKED_SHARE)
        else:
            shares.append(rest)
    return shares


def correlation(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Correlation over the stocks of each date and horizon, (E, W, K) -> (E, K); 0 where one of them does not
    vary.
    """
    total = weight.sum(1, keepdim=True).clamp_min(1)
    a = (a - (a * weight).sum(1, keepdim=True) / total) * weight
    b = (b - (b * weight).sum(1, keepdim=True) / total) * weight
    scale = (a.square().sum(1) * b.square().sum(1) / total.squeeze(1).square() + EPSILON**2).sqrt()
    return (a * b).sum(1) / total.squeeze(1) / scale


def ranks(values: Tensor, weight: Tensor) -> Tensor:
    """Rank of each value among the weighted ones of its date, (E, W, K) float64; equal values in the order of
    the stocks.
    """
    last = torch.where(weight > 0, values.double(), torch.inf)
    return last.argsort(dim=1, stable=True).argsort(dim=1).double()


def sign_entropy(sign: Tensor, rise: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy of the sign on each date, (E, W, K) -> (E, K), in nats: within the date, and a little of
    its level.

    Within: the logits are moved so that their mean fits the date's share of rises, and the move carries no
    gradient. That share is common to all stocks of the date and mostly luck; learnt at full weight, it would
    be learnt by heart.
    """
    total = weight.sum(1, keepdim=True).clamp_min(1)
    share = ((rise * weight).sum(1, keepdim=True) / total).clamp(0.02, 0.98)
    mean = (sign * weight).sum(1, keepdim=True) / total
    moved = sign + (torch.logit(share) - mean).detach()
    within = F.binary_cross_entropy_with_logits(moved, rise, reduction="none") * weight
    level = F.binary_cross_entropy_with_logits(mean, share, reduction="none")
    return within.sum(1) / total.squeeze(1) + LEVEL_SHARE * level.squeeze(1)


def _median(score: Tensor, weight: Tensor) -> Tensor:
    """Median of the weighted scores of each date and horizon, (E, 1, K)."""
    known = torch.where(weight > 0, score, torch.nan)
    return known.nanmedian(dim=1, keepdim=True).values


# -- the stage -----------------------------------------------------------------------------------------------
log = logging.getLogger(__name__)

HEADS = 4
"""Attention heads of the part that reads channels."""


def head_settings(config: Config, plan: BatchPlan) -> LoopSettings:
    """What the loop reads of a configuration, for a plan of dates."""
    usual = loop_settings(config, "basemodel", plan)
    return replace(
        usual,
        stage="head",
        schedule=replace(usual.schedule, peak=config.head.learning_rate),
        weight_decay=config.head.weight_decay,
        grad_clip=config.head.grad_clip,
    )


class HeadRun(StageRun):
    """One call of `run_stage` for the head."""

    trunk: Kronos | None = None
    trunk_digest: str | None = None
    trunk_start: str = "raw bars"

    def _read(self) -> HeadData:
        return HeadData.of(self.config, self.store)

    def _loop_settings(self) -> LoopSettings:
        return head_settings(self.config, self.data.plan)

    def _frozen_tokenizer(self) -> tuple[KronosTokenizer | None, str | None]:
        if not reads_tokens(self.config):
            return None, None
        tokenizer, digest = super()._frozen_tokenizer()
        self.trunk_start = self.runtime.on_main(lambda: trunk_source(self.config, digest))
        pinned = self.config.model_paths.revision(self.trunk_start)
        self.trunk = self.runtime.main_first(
            lambda: Kronos.from_pretrained(self.trunk_start, revision=pinned)
        )
        self.trunk_digest = self.runtime.on_main(lambda: network_digest(self.trunk, self.trunk_start))  # type: ignore[arg-type]
        return tokenizer, digest

    def _start_facts(self) -> dict[str, str]:
        return {}  # the trunk's digest says what it started from; its folder may lie elsewhere

    def _facts(self) -> dict[str, Any]:
        c, s, plan = self.config, self.settings, self.data.plan
        names = ("clip", "norm_epsilon", "train_ratio", "val_ratio", "test_ratio", *PART_DAYS)
        facts: dict[str, Any] = {
            "data": self.store.digest,
            **{f"data.{name}": getattr(c.data, name) for name in names},
        }
        facts |= {
            "data.embargo": c.embargo,
            "head.token_lookback": c.head_token_lookback,
            "horizons": all_horizons(c),
        }
        facts |= {
            f"head.{k}": v for k, v in asdict(c.head).items() if k not in ("horizons", "token_lookback")
        }
        facts |= {
            "asked horizon": asked_horizon(c),
            "dates of a step": plan.step_samples,
            "dates of an epoch": plan.epoch_samples,
        }
        facts |= {"scheduler" if k == "kind" else k: v for k, v in asdict(s.schedule).items() if k != "peak"}
        facts |= {"betas": list(s.betas), "decay_norms_and_biases": False, "seed": s.seed}
        return facts | {"tokenizer": self.tokenizer_digest, "trunk": self.trunk_digest}

    def _outdated(self, facts: dict[str, Any]) -> bool:
        """Whether the predictor was trained again since: the head's weights would mean nothing on it."""
        return bool(facts.get("trunk") != self.trunk_digest and reads_tokens(self.config))

    def _build(self, tokenizer: KronosTokenizer | None) -> Objective:
        h = self.config.head
        torch.manual_seed(self.config.training.seed)
        head = new_head(self.config, self.trunk, tokenizer)
        self.trunk = None  # the head has a copy
        return HeadObjective(
            head, sign_weight=h.sign_weight, trunk_share=h.trunk_learning_rate / h.learning_rate
        )

    def _streams(self) -> Streams | None:
        states = None
        if self.config.head.frozen and reads_tokens(self.config):
            networks = hashlib.sha256(f"{self.tokenizer_digest} {self.trunk_digest}".encode()).hexdigest()
            head = self.objective.network()
            assert isinstance(head, Head)
            states = frozen_states(self.config, self.store, self.data, head, networks, self.runtime)
            if states is None:
                return None
        return head_streams(self.config, self.data, self.store, self.runtime, states)

    def _starts_trained(self) -> bool:
        return False  # the read-out is new

    def _describe(self) -> list[str]:
        read = {"tokens": "tokens", "bars": "raw bars", "both": "tokens and raw bars"}[
            self.config.head.inputs
        ]
        start = f"head: reads {read}"
        if reads_tokens(self.config):
            start += f", the predictor is {self.trunk_start}"
        return [self.data.train.describe(self.store), self.data.validation.describe(self.store), start]


def new_head(config: Config, trunk: Kronos | None, tokenizer: KronosTokenizer | None) -> Head:
    """An untrained head on copies of both networks; None where it reads raw bars only."""
    h = config.head
    return Head.on(
        trunk,
        tokenizer,
        inputs=h.inputs,
        horizons=all_horizons(config),
        asked=asked_horizon(config),
        lookback=h.bar_lookback,
        patch=h.patch,
        channels=len(CHANNELS),
        figures=len(FIGURES),
        width=h.width,
        layers=h.layers,
        heads=HEADS,
        ff_dim=2 * h.width,
        dropout_p=h.dropout,
        token_lookback=config.head_token_lookback,
        clip=config.data.clip,
        norm_epsilon=config.data.norm_epsilon,
        frozen=h.frozen,
    )


def trunk_source(config: Config, tokenizer_digest: str | None) -> str:
    """The predictor that the head reads: the run's own where it is complete, else the pretrained one. A
    folder or hub id.

    Raises KitError when there is none, when it is not complete, or when it was trained on another tokenizer.
    """
    own = config.basemodel_dir / "best_model"
    summary = read_summary(config.basemodel_dir)
    if summary is None and not config.experiment.train_basemodel and config.predictor_is_pretrained:
        return str(config.model_paths.pretrained_predictor)
    if summary is None or not own.is_dir():
        raise KitError(
            f"{own}: expected the predictor that the head is to read, found none; train it first, or set "
            "experiment.train_basemodel: false with a pretrained predictor, or head.inputs: bars, which needs none"
        )
    if summary["status"] != "complete":
        raise KitError(
            f"{config.basemodel_dir}: expected a complete predictor stage, found it {summary['status']} at step "
            f"{summary['step']} of {summary['total_steps']}; finish it first: the same command goes on"
        )
    if summary["tokenizer_digest"] != tokenizer_digest:
        raise KitError(
            f"{own}: expected a predictor of the present tokenizer ({str(tokenizer_digest)[:12]}), found one trained on another "
            f"({str(summary['tokenizer_digest'])[:12]}); train the predictor again, or name that tokenizer in "
            "model_paths.finetuned_tokenizer"
        )
    return str(own)
