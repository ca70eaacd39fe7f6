"""The head's loss: within each date, the correlation of the scores with the ranks of the returns, and the
signs.

In: batches of whole dates (`training.head_data`). Out: sums over dates, which add up over micro-batches and
processes: the unit of the loss is a date, however many stocks it has. Nothing of one date is compared with
another date.

Letters: E dates, W stocks of a date, K horizons.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kronos.networks.head import Head
from kronos.training.objectives import Batch, Objective, Reduce, Sums

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

    def __init__(self, head: Head, *, sign_weight: float, trunk_share: float) -> None:
        """trunk_share: learning rate of the trunk over that of the head."""
        super().__init__()
        self.head = head
        self.sign_weight, self.trunk_share = sign_weight, trunk_share
        self.shares = horizon_shares(head.config.horizons, head.config.asked)

    def network(self) -> Head:
        return self.head

    def compile_training(self) -> None:
        self.head.forward = torch.compile(self.head.forward)  # type: ignore[method-assign]

    def rate_share(self, name: str) -> float:
        """What the learning rate of a parameter is multiplied by."""
        return self.trunk_share if name.startswith("head.trunk.") else 1.0

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
        loss = 1 - gained / shared if shared else float("nan")
        return {"loss": loss, **values, "weight": total}

    def _answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores and sign logits, (E, W, K) each."""
        shape = batch["real"].shape
        flat = {
            name: batch[name].flatten(0, 1)
            for name in ("series", "figures", "state", "x", "stamp")
            if name in batch
        }
        state = flat.get("state")
        if state is None and "x" in flat:
            state = self.head.state(flat["x"], flat["stamp"])
        out = self.head(flat.get("series"), flat.get("figures"), None if state is None else state.float())
        return out.score.unflatten(0, shape), out.sign.unflatten(0, shape)


def horizon_shares(horizons: Sequence[int], asked: int) -> list[float]:
    """Weights of the horizons in the loss, summing up to 1."""
    if len(horizons) == 1:
        return [1.0]
    rest = (1 - ASKED_SHARE) / (len(horizons) - 1)
    return [ASKED_SHARE if horizon == asked else rest for horizon in horizons]


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
