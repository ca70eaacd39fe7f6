"""A trained predictor that teaches a smaller one: where it comes from, and a student made of its blocks.

In: `training.teacher`, a folder or hub id, and the tokenizer of this run. Out: the frozen teacher, whose tokens
are the same; a student that starts from every second block.
"""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from kronos.config import Config
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, check_pair
from kronos.training.folder import read_summary


def load_teacher(config: Config, tokenizer: KronosTokenizer, digest: str) -> Kronos:
    """The network of `training.teacher`, in evaluation mode and without gradients.

    digest: of this run's tokenizer. Raises KitError where its folder's summary names another tokenizer, or its
    tokens have other bits: its probabilities would be those of other bars.
    """
    source = config.training.teacher
    teacher = Kronos.from_pretrained(source, revision=config.model_paths.revision(source))
    check_pair(tokenizer, teacher)
    summary = None
    if Path(source).is_dir():
        summary = read_summary(Path(source).parent)
    known = None
    if summary is not None:
        known = summary["tokenizer_digest"]
    if known is not None and known[:12] != digest[:12]:
        raise KitError(
            f"training.teacher: expected a predictor of this run's tokenizer ({digest[:12]}), found one of another "
            f"({known[:12]}); name the teacher's tokenizer in model_paths.finetuned_tokenizer and set "
            "experiment.train_tokenizer: false"
        )
    return teacher.requires_grad_(False)


def of_every_second_block(teacher: Kronos) -> Kronos:
    """A student with the teacher's sizes and half of its blocks (the first, the third, ...), its embeddings and
    heads; in training mode, with gradients.
    """
    kept = range(0, teacher.config.n_layers, 2)
    student = Kronos(**asdict(replace(teacher.config, n_layers=len(kept))))
    weights = teacher.state_dict()
    found = {}
    for name in student.state_dict():
        place = name.split(".")
        if place[0] == "transformer":
            place[1] = str(kept[int(place[1])])
        found[name] = weights[".".join(place)]
    with torch.no_grad():
        student.load_state_dict(found)
    return student
