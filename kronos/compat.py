"""The original's names over our networks: who has scripts for it changes one import.

In and out: what the methods of the public repository shiyu-coder/Kronos (MIT) take and return, written anew
over ours. Networks of this module are for such scripts; the kit's own training takes those of
`kronos.networks`, with the same weights and files.

    from kronos.compat import Kronos, KronosPredictor, KronosTokenizer

Letters: B series, T time steps, V1, V2 vocabularies of the two tokens, K code bits.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kronos import networks
from kronos.bars import FloatArray
from kronos.errors import KitError
from kronos.forecasting.generate import generate_reference
from kronos.forecasting.predictor_api import TablePredictor
from kronos.forecasting.sampling import Sampling, filter_logits
from kronos.networks.predictor import TokenHead, sample_categorical
from kronos.networks.quantizer import sound_vectors

Indices = Tensor | tuple[Tensor, Tensor] | list[Tensor]


class KronosTokenizer(networks.KronosTokenizer):
    """`encode`, `decode` and `forward` as the original has them."""

    def encode(self, x: Tensor, half: bool = False) -> Any:
        """Indices of normalised bars (B, T, 6): full ones (B, T), or with `half` the pair [s1, s2]; int64."""
        s1, s2 = super().encode(x)
        return [s1, s2] if half else s1 + (s2 << self.config.s1_bits)

    def decode(self, x: Indices, half: Any = False) -> Tensor:
        """Normalised bars (B, T, 6) of full indices (B, T), or with `half` of a pair (s1, s2)."""
        if isinstance(x, Tensor):
            return super().decode(x & (2**self.config.s1_bits - 1), x >> self.config.s1_bits)
        if not half:
            raise KitError("KronosTokenizer.decode: expected full indices, found a pair; pass half=True")
        return super().decode(*x)

    def forward(self, x: Tensor) -> Any:
        """((coarse, full), quantiser loss, codes (B, T, K), full indices (B, T)) of normalised bars (B, T,
        6).
        """
        out = super().forward(x)
        loss = self.quantizer.loss(self.quantizer.terms(out.z, out.code))
        s1, s2 = self.quantizer.indices(out.z)
        return (out.coarse, out.full), loss, out.code, s1 + (s2 << self.config.s1_bits)


class Head(TokenHead):
    """Both heads, with the original's loss."""

    def compute_loss(
        self,
        s1_logits: Tensor,
        s2_logits: Tensor,
        s1_targets: Tensor,
        s2_targets: Tensor,
        padding_mask: None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """((CE(s1) + CE(s2)) / 2, CE(s1), CE(s2)), each a mean over positions in nats. Logits (B, T, V),
        targets (B, T).
        """
        _refuse_padding(padding_mask)
        losses = [
            F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            for logits, targets in ((s1_logits, s1_targets), (s2_logits, s2_targets))
        ]
        return (losses[0] + losses[1]) / 2, losses[0], losses[1]


class Kronos(networks.Kronos):
    """`forward`, `decode_s1`, `decode_s2` and `head.compute_loss` as the original has them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.head: TokenHead = Head(self.config.s1_bits, self.config.s2_bits, self.config.d_model)
        self.head.apply(self._initialise)

    def forward(  # type: ignore[override]
        self,
        s1_ids: Tensor,
        s2_ids: Tensor,
        stamp: Tensor,
        padding_mask: None = None,
        use_teacher_forcing: bool = False,
        s1_targets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V1) and (B, T, V2) of the pair that follows each position.

        s1_targets (B, T): what s2 is conditioned on with `use_teacher_forcing`; without, s1 is sampled from
        its own softmax. Causal in evaluation, too, where the original's second head sees the future.
        """
        _refuse_padding(padding_mask)
        if use_teacher_forcing and s1_targets is None:
            raise KitError("Kronos.forward: expected s1_targets with use_teacher_forcing, found none")
        return super().forward(s1_ids, s2_ids, stamp, s1_targets if use_teacher_forcing else None)

    def decode_s1(
        self, s1_ids: Tensor, s2_ids: Tensor, stamp: Tensor, padding_mask: None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V1) of the s1 that follows each position, and the context (B, T, D)."""
        _refuse_padding(padding_mask)
        h = self.context(s1_ids, s2_ids, stamp)
        return self.s1_logits(h), h

    def decode_s2(self, context: Tensor, s1_ids: Tensor, padding_mask: None = None) -> Tensor:
        """Logits of s2 given the s1 that follows: of the last position (B, 1, V2) for s1_ids (B, 1), as the
        original generates, without rotation; of every position (B, T, V2) for s1_ids (B, T), as in
        training."""
        _refuse_padding(padding_mask)
        if s1_ids.shape[1] == 1:
            return self.last_s2_logits(context, s1_ids, "original").unsqueeze(1)
        return self.s2_logits(context, s1_ids)


class KronosPredictor(TablePredictor):
    """The original's predictor: `kronos.KronosPredictor` with compatibility="original" unless you say
    otherwise.
    """

    def __init__(
        self, model: networks.Kronos, tokenizer: networks.KronosTokenizer, *args: Any, **settings: Any
    ) -> None:
        super().__init__(
            model, tokenizer, *args, **{"compatibility": "original", "epsilon": "absolute"} | settings
        )


def sample_from_logits(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    sample_logits: bool = True,
) -> Tensor:
    """One token per row of (B, V) logits, (B, 1) int64; the likeliest one without `sample_logits`.

    top_k > 0 takes the place of top_p, as in the original. Draws come from torch's global generator. -inf
    forbids a token. Raises KitError on NaN, on infinity, and where every token is forbidden.
    """
    sampling = Sampling(temperature, top_k or 0, 1.0 if top_k else top_p or 1.0)
    if not bool(logits.amax(dim=-1).isfinite().all()):
        raise KitError("sample_from_logits: expected finite logits, found NaN or infinity; check the weights")
    if sampling.greedy or not sample_logits:
        return logits.argmax(dim=-1, keepdim=True)
    return sample_categorical(filter_logits(logits / temperature, sampling.top_k, sampling.top_p)).unsqueeze(
        -1
    )


def auto_regressive_inference(
    tokenizer: networks.KronosTokenizer,
    model: networks.Kronos,
    x: Tensor,
    x_stamp: Tensor,
    y_stamp: Tensor,
    max_context: int,
    pred_len: int,
    clip: float = 5,
    T: float = 1.0,
    top_k: int = 0,
    top_p: float = 0.99,
    sample_count: int = 5,
    verbose: bool = False,
) -> FloatArray:
    """The last bars of known and sampled ones, at most max_context, mean over the paths: (B, n, 6) float32,
    normalised; NaN for a series whose tokens or logits were not finite.

    x (B, L, 6) normalised bars; x_stamp (B, L, 5), y_stamp (B, pred_len, 5). verbose is taken and shows
    nothing.
    """
    if y_stamp.shape[1] != pred_len:
        raise KitError(
            f"auto_regressive_inference: expected pred_len stamps ahead, found {y_stamp.shape[1]} for {pred_len}"
        )
    sampling = Sampling(T, top_k, 1.0 if top_k > 0 else top_p, sample_count, decode_rope="original")
    with torch.inference_mode():
        bars = x.clip(-clip, clip)
        z, _ = tokenizer.quantize(bars)
        s1, s2 = tokenizer.quantizer.indices(z)
        keys = torch.arange(len(x), device=x.device)
        drawn = generate_reference(
            model, s1, s2, x_stamp, y_stamp, sampling=sampling, series=keys, max_context=max_context
        )
        paths = []
        for path in range(sample_count):
            tokens = [
                torch.cat((known, new[:, path]), dim=1) for known, new in ((s1, drawn.s1), (s2, drawn.s2))
            ]
            seen = [part[:, -max_context:] for part in tokens]
            paths.append(networks.KronosTokenizer.decode(tokenizer, *seen))
        found = torch.stack(paths).mean(dim=0)
        sound = drawn.sound.all(dim=1) & sound_vectors(z).all(dim=1)
        return np.asarray(found.masked_fill(~sound[:, None, None], torch.nan).cpu().numpy())


def _refuse_padding(padding_mask: Any) -> None:
    if padding_mask is not None:
        raise KitError(
            "kronos.compat: expected no padding_mask, found one; batch series of one length, or use KronosPredictor"
        )
