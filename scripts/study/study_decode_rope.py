#!/usr/bin/env python3
"""Which rotation of the dependency layer's last position gives the lower held-out loss
(inference.decode_rope)?

    python scripts/study/study_decode_rope.py --config runs/demo/pipeline_config.json

'trained' rotates the query and the keys as in training, 'original' neither, as the published generation does.
For windows of
the test part: cross entropy (nats) of the fine token of the bar after the lookback, given its coarse token.
`t` of the difference is clustered by date, `t_windows` takes windows as independent. One JSON line last.
docs/findings.md says what came out.
"""

import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
import torch
import torch.nn.functional as F

from kronos import cli, configfile
from kronos.config import Config
from kronos.data.prepare import prepare
from kronos.data.windows import WindowIndex, WindowReader, Windows
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.pair import find_pair, load_forecaster
from kronos.networks.predictor import DecodeRope
from scripts.study import beliefs

ROPES: tuple[DecodeRope, DecodeRope] = ("trained", "original")


def main() -> None:
    parser = cli.parser(__doc__ or "", "configs/demo.yaml")
    parser.add_argument(
        "--samples", type=int, default=5000, metavar="N", help="windows, evenly spread (default: %(default)s)"
    )
    arguments = parser.parse_args()
    cli.setup_logging()
    logging.getLogger("kronos").setLevel(logging.WARNING)
    config = configfile.load(arguments.config, arguments.overrides)
    losses, dates = fine_losses(config, arguments.samples)
    gain = losses["original"] - losses["trained"]
    clustered = beliefs.mean(gain, dates)
    plain = gain.mean() / (gain.std(ddof=1) / np.sqrt(len(gain)))
    row: dict[str, float] = {name: float(values.mean()) for name, values in losses.items()}
    row |= {
        "gain_of_trained": clustered.value,
        "error": clustered.error,
        "t": clustered.t,
        "t_windows": float(plain),
    }
    row |= {"windows": len(gain), "dates": len(np.unique(dates))}
    print("\n".join(f"{name:<16} {value:10.5g}" for name, value in row.items()))
    print(json.dumps(row))


def fine_losses(config: Config, samples: int) -> tuple[dict[DecodeRope, np.ndarray], np.ndarray]:
    """Loss of s2 per window (n,) under both rotations, and the session of each window's predicted bar."""
    store = prepare(config)
    part = beliefs.unseen_part(config, store)
    d = config.data
    forecaster = load_forecaster(config, find_pair(config))
    index = WindowIndex.build(store, d.lookback_window, 1, part)
    rows = index.rows(np.linspace(0, len(index) - 1, min(samples, len(index))).astype(np.int64))
    reader = WindowReader(
        store, d.lookback_window, 1, clip=d.clip, epsilon=d.norm_epsilon, first_session=part.first
    )
    parts = [_batch(forecaster, reader(rows[first : first + 256])) for first in range(0, len(rows), 256)]
    losses = {rope: np.concatenate([p[rope] for p in parts]) for rope in ROPES}
    return losses, store.session[rows + d.lookback_window].astype(np.int64)


@torch.inference_mode()
def _batch(forecaster: Forecaster, windows: Windows) -> dict[DecodeRope, np.ndarray]:
    model, tokenizer = forecaster.model.eval(), forecaster.tokenizer.eval()
    s1, s2 = tokenizer.encode(torch.from_numpy(windows.x).to(forecaster.device))
    h = model.context(s1[:, :-1], s2[:, :-1], torch.from_numpy(windows.stamp).to(forecaster.device)[:, :-1])
    logits = {rope: model.last_s2_logits(h, s1[:, 1:], rope) for rope in ROPES}
    return {
        rope: F.cross_entropy(x.float(), s2[:, -1], reduction="none").cpu().double().numpy()
        for rope, x in logits.items()
    }


if __name__ == "__main__":
    cli.run(main)
