"""How the bars that a network was trained on were normalised: a small file beside its config.json.

In: epsilon and clip of a training. Out: `normalisation.json`. config.json itself stays in the published form,
which other loaders read; a network without the file is taken to be a published one, or of an earlier version.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from kronos import files, records
from kronos.bars import EpsilonKind
from kronos.errors import KitError

NORMALISATION_FILE = "normalisation.json"


@dataclass(frozen=True)
class Normalisation:
    """What stands between a price and what the networks see."""

    epsilon: Literal["absolute", "relative"] = "absolute"
    """absolute: std + 1e-5, as the published networks were trained; relative: 1e-5 of the feature's
    magnitude.
    """
    clip: Annotated[float, "> 0"] = 5.0
    """Normalised values are cut to +-clip."""

    @classmethod
    def read(cls, path: Path) -> "Normalisation":
        """Raises KitError for a file that says something else."""
        return records.read(path, cls, remedy="copy or download the network again", strict=True)

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        files.write_json(folder / NORMALISATION_FILE, asdict(self))

    def __str__(self) -> str:
        return f"epsilon {self.epsilon}, clip {self.clip:g}"


def agreed(stated: Normalisation | None, epsilon: EpsilonKind | None, clip: float | None) -> Normalisation:
    """What to normalise with: what the network says, else what was asked for, else the published way.

    Raises KitError where both are known and differ: prices on another scale than in training give other
    answers, e.g. P(rise) 0.24 instead of 0.94 for a coin at 9e-6.
    """
    own = stated or Normalisation()
    asked = Normalisation(epsilon or own.epsilon, own.clip if clip is None else float(clip))
    if stated is not None and asked != stated:
        raise KitError(
            f"forecast: expected the normalisation that the network was trained with ({stated}), found {asked}; leave epsilon "
            "and clip (data.norm_epsilon and data.clip) as they were in training"
        )
    return asked
