"""What the head's stage costs: parameters, operations, memory, and two real steps of it.

In: a configuration, the networks' configurations, `Load` of one date's stocks. Out: numbers by part, as
`networks.cost` and `footprint` give them for the other stages. A row here is one stock on one date; a
micro-batch is one date. Parameters are exact (`tests/planning/test_plan.py`). Memory is counted as `footprint` counts:
the trunk's blocks at every bar, the channels' blocks at every patch.
"""

from dataclasses import asdict, replace

import torch
from torch import Tensor

from kronos.config import Config
from kronos.data.batch_plan import BatchPlan
from kronos.data.channels import CHANNELS, FIGURES
from kronos.networks import Kronos, KronosTokenizer, cost
from kronos.networks.head import Head
from kronos.networks.predictor import PredictorConfig
from kronos.networks.tokenizer import TokenizerConfig
from kronos.planning.footprint import BATCH_BYTES, WIDE, Load, Memory, Segment, block_segment, peak, segment
from kronos.planning.measure import seconds
from kronos.planning.probe import random_batch
from kronos.training.head import HeadObjective, head_settings, new_head
from kronos.training.head_data import all_horizons, reads_tokens
from kronos.training.optim import build_optimizer

Networks = tuple[TokenizerConfig, PredictorConfig]


def reads_bars(config: Config) -> bool:
    """Whether the head reads bars as channels."""
    return config.head.inputs in ("bars", "both")


def head_parameters(config: Config, networks: Networks) -> cost.Parts:
    """Parameters of `Head` by part; the tokenizer, which never learns, is one of them."""
    h, predictor = config.head, networks[1]
    read, parts = 0, {}
    if reads_bars(config):
        inputs = h.patch * len(CHANNELS) + len(FIGURES) + 2
        block = cost.block_parameters(h.width, 2 * h.width)
        parts["channels"] = inputs * h.width + h.layers * block + h.width
        read += h.width
    if reads_tokens(config):
        parts["trunk"] = sum(cost.predictor_parameters(predictor).values())
        parts["tokenizer"] = sum(cost.tokenizer_parameters(networks[0]).values())
        read += predictor.d_model
    parts["read-out"] = 2 * (read + 1) * len(all_horizons(config))
    return parts


def head_flops(config: Config, networks: Networks) -> dict[str, cost.Flops]:
    """Operations of a training step on one row."""
    h, (tokenizer, predictor) = config.head, networks
    trained = {"blocks": 0}
    parts = {}
    if reads_bars(config):
        patches = h.bar_lookback // h.patch
        trained["channels"] = 2 * h.bar_lookback * len(CHANNELS) * h.width
        trained["blocks"] += h.layers * cost.block_flops(h.width, 2 * h.width, patches)
    if reads_tokens(config):
        length = config.head_token_lookback
        parts["frozen tokenizer"] = cost.Flops(cost.encode_flops(tokenizer, length))
        trained["embedding"] = 2 * length * 2 * predictor.d_model**2
        trained["blocks"] += predictor.n_layers * cost.block_flops(
            predictor.d_model, predictor.ff_dim, length
        )
    for name, forward in trained.items():
        parts[name] = cost.Flops(forward, 2 * forward)
    return parts


def head_memory(config: Config, networks: Networks, load: Load) -> Memory:
    """Of a step on `load.batch` rows. load.length is not looked at: the head has lengths of its own."""
    h, predictor = config.head, networks[1]
    parts = head_parameters(config, networks)
    segments: list[Segment] = []
    batch = 0
    if reads_bars(config):
        patches = h.bar_lookback // h.patch
        own = replace(load, length=patches)
        positions = load.batch * patches
        width = replace(
            predictor,
            d_model=h.width,
            ff_dim=2 * h.width,
            ffn_dropout_p=h.dropout,
            attn_dropout_p=0.0,
            resid_dropout_p=h.dropout,
        )
        batch += load.batch * WIDE * (h.bar_lookback * len(CHANNELS) + len(FIGURES))
        embed = h.patch * len(CHANNELS) * h.width
        segments.append(segment(positions * WIDE * h.width, embed, embed, 0, own))
        segments += [block_segment(width, positions, own)] * h.layers
    if reads_tokens(config):
        length, d = config.head_token_lookback, predictor.d_model
        own = replace(load, length=length)
        positions = load.batch * length
        batch += positions * BATCH_BYTES
        kept = positions * 2 * load.narrow * d
        embedding = cost.predictor_parameters(predictor)["embedding"]
        segments.append(segment(kept, 2 * d * d, embedding, 2 * positions * WIDE * d, own))
        segments += [block_segment(predictor, positions, own)] * predictor.n_layers
    segments.append(segment(load.batch * WIDE * 64, 0, parts["read-out"], 0, load))
    frozen = parts.get("tokenizer", 0)
    weights = sum(parts.values()) - frozen
    return peak(segments, weights, weights, frozen, batch, load)


def probe_head(config: Config, networks: Networks, device: torch.device) -> float:
    """Seconds of the second of two steps on one date's stocks, with random weights, in float32."""
    trunk = tokenizer = None
    if reads_tokens(config):
        trunk, tokenizer = Kronos(**asdict(networks[1])), KronosTokenizer(**asdict(networks[0]))
    head: Head = new_head(config, trunk, tokenizer)
    h = config.head
    objective = HeadObjective(
        head, sign_weight=h.sign_weight, trunk_share=h.trunk_learning_rate / h.learning_rate
    )
    objective = objective.to(device).train()
    settings = head_settings(config, BatchPlan(windows=1, batch_size=1))
    optimizer = build_optimizer(objective, settings)
    batch = _random_date(config, device)

    def step() -> None:
        objective(batch, lambda joint: joint)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return seconds(step, device)


def _random_date(config: Config, device: torch.device) -> dict[str, Tensor]:
    """One date as `head_data.DateBatches` gives it, of noise."""
    h, rows, horizons = config.head, config.head.stocks_per_date, len(all_horizons(config))
    batch = {
        "real": torch.ones(1, rows, dtype=torch.bool),
        "rank": torch.rand(1, rows, horizons) - 0.5,
        "rise": (torch.rand(1, rows, horizons) > 0.5).float(),
        "labelled": torch.ones(1, rows, horizons),
    }
    if reads_bars(config):
        batch["series"] = torch.randn(1, rows, h.bar_lookback, len(CHANNELS))
        batch["figures"] = torch.randn(1, rows, len(FIGURES))
    found = {name: values.to(device) for name, values in batch.items()}
    if reads_tokens(config):
        windows = random_batch(rows, config.head_token_lookback, device)
        found |= {"x": windows["x"][None], "stamp": windows["stamp"][None]}
    return found
