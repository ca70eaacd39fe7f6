"""The third stage, which is optional: a head learns from hidden states and raw bars what is asked for, the
ranks of returns.

In: a resolved `Config`, a prepared store, and where tokens are read a predictor: this run's own, else the
pretrained one.
Out: the stage's folder, as of the others; `best_model/` holds the head with everything that it reads. The
loop, its checkpoints and its promises are those of the other stages; a "window" of theirs is a date here.
"""

import hashlib
import logging
from dataclasses import asdict, replace
from typing import Any

import torch

from kronos.config import PART_DAYS, Config
from kronos.data.channels import CHANNELS, FIGURES
from kronos.data.sampling import BatchPlan
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.head import Head
from kronos.training.folder import read_summary
from kronos.training.head_data import HeadData, all_horizons, asked_horizon, head_streams, reads_tokens
from kronos.training.head_objective import HeadObjective
from kronos.training.head_states import frozen_states
from kronos.training.objectives import Objective
from kronos.training.settings import LoopSettings, Streams
from kronos.training.stages import StageRun, loop_settings
from kronos.training.start import network_digest

log = logging.getLogger(__name__)

HEADS = 4
"""Attention heads of the part that reads channels."""


def head_settings(config: Config, plan: BatchPlan) -> LoopSettings:
    """What the loop reads of a configuration, for a plan of dates."""
    usual = loop_settings(config, "basemodel", plan)
    return replace(
        usual,
        stage="head",
        accumulation=plan.accumulation,
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
        facts |= {"betas": list(s.betas), "decay_norms_and_biases": s.decay_norms_and_biases, "seed": s.seed}
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
        start = (
            f"head: reads {read}, the predictor is {self.trunk_start}"
            if reads_tokens(self.config)
            else f"head: reads {read}"
        )
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
            f"{summary['step']} of {summary['total_steps']}; finish it with --skip-existing"
        )
    if summary["tokenizer_digest"] != tokenizer_digest:
        raise KitError(
            f"{own}: expected a predictor of the present tokenizer ({str(tokenizer_digest)[:12]}), found one trained on another "
            f"({str(summary['tokenizer_digest'])[:12]}); train the predictor again, or name that tokenizer in "
            "model_paths.finetuned_tokenizer"
        )
    return str(own)
