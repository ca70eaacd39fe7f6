"""A network and its loss as one module: what accelerate prepares and what the loop calls. The loop knows no
stage.

In: a batch as the loader gives it (see docs/architecture.md, "window"). Out: weighted *sums* over the
positions of a micro-batch; those of micro-batches and processes add up, and a mean is a sum divided by the
summed weight.
Source: Kronos paper (arXiv 2508.02739), sections 3.1 and 3.2; the quantiser's share in
`networks/quantizer.py`.

Letters: B windows, T bars of a window (lookback and predicted), K code bits, V tokens of a vocabulary.
"""

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.bars import CLOSE
from kronos.networks.layers import BlockStack
from kronos.networks.predictor import Kronos
from kronos.networks.quantizer import QuantizerTerms
from kronos.networks.tokenizer import KronosTokenizer

Batch = Mapping[str, Tensor]
Sums = dict[str, Tensor]
Reduce = Callable[[Tensor], Tensor]
"""From a micro-batch's joint statistics to those of the whole optimiser step over all processes."""


class Objective(nn.Module):
    """What the loop asks of a network with its loss. `forward(batch, reduce)` gives `Sums` with `loss` and
    `weight`.
    """

    metric: str
    """Name in `report` of the validation value that chooses the best network; lower is better."""
    shown: tuple[str, ...] = ("loss",)
    """Names in `report` that a line of the log shows; metrics.jsonl has all of them."""
    unit = "windows"
    """What a batch consists of."""
    joint_size = 0
    """Length of `joint`; 0: the loss of a step is a plain sum over its positions."""

    def network(self) -> nn.Module:
        """The network that is trained and saved."""
        raise NotImplementedError

    def compile_training(self) -> None:
        """Let torch.compile do the training pass. Parameters keep their names; validation stays the plain
        network's.
        """
        raise NotImplementedError

    def recompute_blocks(self) -> None:
        """Save memory in the backward pass, see `BlockStack.recompute`."""
        for module in self.network().modules():
            if isinstance(module, BlockStack):
                module.recompute = True

    def rate_share(self, name: str) -> float:
        """What the learning rate of a parameter of this name (as in `named_parameters`) is multiplied by."""
        return 1.0

    def weight(self, batch: Batch) -> float:
        """Summed weight of a batch: what its sums are divided by."""
        raise NotImplementedError

    def joint(self, batch: Batch) -> Tensor:
        """(joint_size,) what the loss of a micro-batch needs to know of all others, as sums; without
        gradient.
        """
        raise NotImplementedError

    def evaluate(self, batch: Batch) -> Sums:
        """Validation sums of one batch, in float64; in eval mode and without gradient."""
        raise NotImplementedError

    def report(self, sums: Mapping[str, list[float]]) -> dict[str, float]:
        """Named means from sums that were added up over batches and processes."""
        raise NotImplementedError


# -- tokenizer -----------------------------------------------------------------------------------------------
class TokenizerObjective(Objective):
    """(mse(coarse) + mse(full) + quantiser loss) / 2, every bar weighted by `batch['weight']`."""

    metric = "full_mse"
    shown = ("loss", "full_mse", "close_mae_share", "s1_code_perplexity")

    def __init__(self, tokenizer: KronosTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.joint_size = tokenizer.quantizer.bits + 1
        self._reconstruct = tokenizer.forward

    def network(self) -> KronosTokenizer:
        """The network that learns."""
        return self.tokenizer

    def compile_training(self) -> None:
        # Random numbers as without compiling: `joint`, which is not compiled, has to see the same dropout.
        """Use torch.compile for the training pass."""
        self._reconstruct = torch.compile(self.tokenizer.forward, options={"fallback_random": True})

    def weight(self, batch: Batch) -> float:
        """Sum of a batch's target weights."""
        return float(batch["weight"].sum(dtype=torch.float64))

    def joint(self, batch: Batch) -> Tensor:
        """(K + 1,) summed bit probabilities and weight, without gradient.

        The codebook entropy is a function of the mean over the whole optimiser step, so that mean has to be
        known first.
        """
        with torch.no_grad():
            return _pack(self._terms(batch, *self.tokenizer.quantize(batch["x"])))

    def forward(self, batch: Batch, reduce: Reduce) -> Sums:
        """Sums of one micro-batch; `loss` carries the gradient and divides by the step's weight like the
        others.
        """
        x, weight = batch["x"], batch["weight"]
        out = self._reconstruct(x)
        terms = self._terms(batch, out.z, out.code)
        joint = reduce(_pack(terms))
        zero = joint.new_zeros(())
        step = QuantizerTerms(zero, zero, joint[:-1], joint[-1])
        quantizer = self.tokenizer.quantizer.loss(terms, step) * step.weight
        coarse, full = (_weighted((y - x).square().mean(-1), weight) for y in (out.coarse, out.full))
        loss = (coarse + full + quantizer) / 2
        parts = {"coarse_mse": coarse, "full_mse": full, "quantizer": quantizer}
        parts |= {"commitment": terms.commitment, "bit_entropy": terms.entropy, "weight": terms.weight}
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    def evaluate(self, batch: Batch) -> Sums:
        """Validation sums of one batch, and how often each token was used; in full precision, as the
        tokenizer will be used.
        """
        x, weight = batch["x"], _wide(batch["weight"])
        with _full_precision(x):
            out = self.tokenizer(x)
        s1, s2 = self.tokenizer.quantizer.indices(out.z)
        error = (out.full[..., CLOSE] - x[..., CLOSE]).abs() * batch["scale"][:, None, CLOSE].type_as(x)
        price = batch["mean"][:, None, CLOSE].abs().type_as(x).clamp_min(1e-12)
        sums = {
            "coarse_mse": (_wide((out.coarse - x).square().mean(-1)) * weight).sum(),
            "full_mse": (_wide((out.full - x).square().mean(-1)) * weight).sum(),
            "close_mae": (_wide(error) * weight).sum(),
            "close_mae_share": (_wide(error / price) * weight).sum(),
            "weight": weight.sum(),
        }
        bits = self.tokenizer.config.s1_bits, self.tokenizer.config.s2_bits
        used = weight.flatten() > 0
        for name, tokens, own in zip(("s1", "s2"), (s1, s2), bits, strict=True):
            sums[f"{name}_counts"] = _wide(torch.bincount(tokens.flatten()[used], minlength=2**own))
        return sums

    def report(self, sums: Mapping[str, list[float]]) -> dict[str, float]:
        """Means from summed sums; of token counts the share of tokens used and the perplexity of their
        use.
        """
        values = _means(sums)
        for name in ("s1", "s2"):
            if f"{name}_counts" in sums:
                values |= _usage(name, sums[f"{name}_counts"])
        return values

    def _terms(self, batch: Batch, z: Tensor, code: Tensor) -> QuantizerTerms:
        return self.tokenizer.quantizer.terms(z, code, batch["weight"].type_as(z))


def _pack(terms: QuantizerTerms) -> Tensor:
    return torch.cat((terms.probability, terms.weight[None])).detach()


def _usage(name: str, counts: list[float]) -> dict[str, float]:
    total = sum(counts)
    entropy = -sum(c / total * math.log(c / total) for c in counts if c)
    return {
        f"{name}_used": sum(c > 0 for c in counts) / len(counts),
        f"{name}_code_perplexity": math.exp(entropy),
    }


# -- predictor -----------------------------------------------------------------------------------------------
class PredictorObjective(Objective):
    """(cross entropy of s1 + cross entropy of s2) / 2 of the next bar's tokens, from a frozen tokenizer.

    A target weighs `batch['weight']` of its bar, times `history_loss_weight` while that bar lies inside the
    lookback: those bars are normalised with statistics that saw what came after them, the predicted bars are
    not. With a teacher the loss is (1 - w) times that and w times the mean of both tokens' divergences from
    the teacher's probabilities, KL(teacher || predictor); validation stays the cross entropy.
    """

    metric = "loss"
    shown = ("loss", "s1", "s2", "direction_accuracy")

    def __init__(
        self,
        predictor: Kronos,
        tokenizer: KronosTokenizer,
        *,
        lookback: int,
        history_loss_weight: float = 1.0,
        teacher_forcing: bool = True,
        teacher: Kronos | None = None,
        teacher_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.teacher, self.teacher_weight = teacher, teacher_weight
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.lookback = lookback
        self.history_loss_weight = history_loss_weight
        self.teacher_forcing = teacher_forcing
        self._nll = predictor.nll
        self._logits = predictor.forward

    def network(self) -> Kronos:
        """The network that learns."""
        return self.predictor

    def compile_training(self) -> None:
        """Use torch.compile for the training pass."""
        self._nll = torch.compile(self.predictor.nll)
        self._logits = torch.compile(self.predictor.forward)

    def train(self, mode: bool = True) -> "PredictorObjective":
        """Train mode of the predictor; the frozen tokenizer stays in eval mode, its tokens must not be
        random.
        """
        super().train(mode)
        self.tokenizer.eval()
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def weight(self, batch: Batch) -> float:
        """Sum of a batch's target weights."""
        return float(self._target_weight(batch).sum(dtype=torch.float64))

    def forward(self, batch: Batch, reduce: Reduce) -> Sums:
        """Sums of one micro-batch over its T - 1 targets; `loss` carries the gradient."""
        if self.teacher is not None:
            return self._taught(batch, self.teacher)
        s1, s2 = self._nll(*self._tokens(batch), batch["stamp"], teacher_forcing=self.teacher_forcing)
        weight = self._target_weight(batch).type_as(s1)
        s1, s2 = _weighted(s1, weight), _weighted(s2, weight)
        return {"loss": (s1 + s2) / 2, "s1": s1.detach(), "s2": s2.detach(), "weight": weight.sum()}

    def _taught(self, batch: Batch, teacher: Kronos) -> Sums:
        """`forward` beside a teacher; `teacher` is the divergence from it."""
        s1, s2 = self._tokens(batch)
        given = s1[:, :-1], s2[:, :-1], batch["stamp"][:, :-1], s1[:, 1:]
        own = self._logits(*given)
        with torch.no_grad():
            theirs = teacher(*given)
        losses = _cross_entropy(own[0], s1[:, 1:]), _cross_entropy(own[1], s2[:, 1:])
        weight = self._target_weight(batch).type_as(losses[0])
        first, second = _weighted(losses[0], weight), _weighted(losses[1], weight)
        apart = _divergence(own[0], theirs[0]) + _divergence(own[1], theirs[1])
        taught = _weighted(apart, weight) / 2
        share = self.teacher_weight
        loss = (1 - share) * (first + second) / 2 + share * taught
        known = {"s1": first.detach(), "s2": second.detach(), "teacher": taught.detach()}
        return {"loss": loss, **known, "weight": weight.sum()}

    def evaluate(self, batch: Batch) -> Sums:
        """Validation sums of one batch: causal and teacher-forced.

        `s1`, `s2` are of the predicted bars only, `history_*` of the lookback's, which the normalisation lets
        see ahead.
        """
        s1, s2 = self._tokens(batch)
        h = self.predictor.context(s1[:, :-1], s2[:, :-1], batch["stamp"][:, :-1])
        logits = self.predictor.s1_logits(h)
        losses = {
            "s1": _cross_entropy(logits, s1[:, 1:]),
            "s2": _cross_entropy(self.predictor.s2_logits(h, s1[:, 1:]), s2[:, 1:]),
        }
        weight = _wide(batch["weight"][:, 1:])
        ahead = torch.arange(1, batch["x"].shape[1], device=weight.device) >= self.lookback
        sums = {"weight": (weight * ahead).sum(), "history_weight": (weight * ~ahead).sum()}
        for name, value in losses.items():
            sums[name] = (_wide(value) * weight * ahead).sum()
            sums[f"history_{name}"] = (_wide(value) * weight * ~ahead).sum()
        return sums | self._direction(batch, s1, s2, h, logits)

    def _direction(self, batch: Batch, s1: Tensor, s2: Tensor, h: Tensor, logits: Tensor) -> Sums:
        """How often the likeliest first predicted bar closes on the right side of the last known close.

        Both closes as the tokenizer decodes them, as in an anchored forecast: its error on the last known bar
        is no move.
        """
        known, last = self.lookback, batch["x"][:, self.lookback - 1, CLOSE]
        next1 = logits[:, :known].argmax(-1)
        next2 = self.predictor.s2_logits(h[:, :known], next1).argmax(-1)
        pair = (torch.cat((s[:, :known], n[:, -1:]), 1) for s, n in ((s1, next1), (s2, next2)))
        with _full_precision(
            batch["x"]
        ):  # neighbouring closes are often equal in bfloat16, and a tie is no rise
            bars = self.tokenizer.decode(*pair)
        right = (bars[:, -1, CLOSE] > bars[:, -2, CLOSE]) == (batch["x"][:, known, CLOSE] > last)
        weight = _wide(batch["weight"][:, known])
        return {"direction": (_wide(right) * weight).sum(), "direction_weight": weight.sum()}

    def report(self, sums: Mapping[str, list[float]]) -> dict[str, float]:
        """Means in nats; of validation sums also perplexities, beside the 2^bits of a uniform guess."""
        values = _means({name: sums[name] for name in ("s1", "s2", "weight")})
        values = {"loss": (values["s1"] + values["s2"]) / 2, **values}
        if "teacher" in sums:
            apart = _means({"teacher": sums["teacher"], "weight": sums["weight"]})
            values["teacher_divergence"] = apart["teacher"]
        if "history_weight" in sums:
            values["direction_accuracy"] = _means(
                {"right": sums["direction"], "weight": sums["direction_weight"]}
            )["right"]
            past = _means(
                {k.removeprefix("history_"): v for k, v in sums.items() if k.startswith("history_")}
            )
            for name, value in past.items():
                values[f"history_{name}"] = value
            bits = {"s1": self.tokenizer.config.s1_bits, "s2": self.tokenizer.config.s2_bits}
            for name in bits:
                values[f"{name}_perplexity"] = math.exp(min(values[name], 700.0))  # a float ends there
            for name, own in bits.items():
                values[f"{name}_uniform"] = own * math.log(2)
        return values

    def _tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), _full_precision(batch["x"]):
            return self.tokenizer.encode(batch["x"])

    def _target_weight(self, batch: Batch) -> Tensor:
        weight = batch["weight"][:, 1:]
        inside = torch.arange(1, weight.shape[1] + 1, device=weight.device) < self.lookback
        return weight * torch.where(inside, self.history_loss_weight, 1.0)


def _full_precision(x: Tensor) -> torch.autocast:
    """No autocast: a bit whose entry is near zero would flip under bfloat16."""
    return torch.autocast(x.device.type, enabled=False)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view(
        target.shape
    )


def _divergence(logits: Tensor, theirs: Tensor) -> Tensor:
    """KL(teacher || predictor) of each position, (B, T) float32 in nats, of logits (B, T, V)."""
    own, taught = logits.float().log_softmax(-1), theirs.float().log_softmax(-1)
    return F.kl_div(own, taught, reduction="none", log_target=True).sum(-1)


def _weighted(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum()


def _wide(values: Tensor) -> Tensor:
    """float64, so that a sum does not depend on how windows were batched; MPS has none, there it is done on
    the CPU.
    """
    return (values.cpu() if values.device.type == "mps" else values).double()


def _means(sums: Mapping[str, list[float]]) -> dict[str, float]:
    """Every scalar sum divided by the summed weight; nan where nothing was weighed."""
    total = sums["weight"][0]
    means = {}
    for name, value in sums.items():
        if name == "weight" or len(value) != 1:
            continue
        means[name] = math.nan
        if total:
            means[name] = value[0] / total
    return means
