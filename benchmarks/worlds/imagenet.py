"""ImageNet's 1,000 classes, which pretrained networks know, and what each counts for in a suite.

Source:
    ImageNet-9: Xiao et al., ICLR 2021, `in_to_in9.json` of
    https://github.com/MadryLab/backgrounds_challenge
    Cue-conflict: Geirhos et al., ICLR 2019, `human_categories.py` of
    https://github.com/bethgelab/model-vs-human
    ImageNet-A: Hendrycks et al., CVPR 2021, https://github.com/hendrycks/natural-adv-examples
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks.core.suite import DataSource, TrainingDomain
from cgn.data.image_set import ImageSet

SIZE_PX = 224
N_OUTPUTS = 1_000  # of a network that knows ImageNet's classes
NONE = ""  # in `imagenet.csv`: counts for no class


@cache
def class_table() -> pd.DataFrame:
    """Read what each of the 1,000 outputs counts for.

    Returns:
        Columns wnid, in9, cue_conflict (names of classes, or empty) and imagenet_a (bool), indexed
        by the output.
    """
    path = Path(__file__).with_name("imagenet.csv")
    types = {"imagenet_a": bool}
    return pd.read_csv(path, index_col="index", keep_default_na=False, dtype=types)


def classes_of(column: str) -> list[str]:
    """Names of the classes in a column, sorted, which is the order of their labels."""
    return sorted(set(class_table()[column]) - {NONE})


def class_labels(column: str) -> Tensor:
    """Class of each output, (1000,) int64; the number of classes for none.

    Args:
        column: "in9" or "cue_conflict".
    """
    classes = classes_of(column)
    return torch.tensor(
        [len(classes) if name == NONE else classes.index(name) for name in class_table()[column]]
    )


def in_imagenet_a() -> Tensor:
    """Whether ImageNet-A has images of each output, (1000,) bool."""
    return torch.tensor(class_table()["imagenet_a"].tolist())


def _no_training(source: DataSource) -> ImageSet:
    raise ValueError(
        "official ImageNet suites are for pretrained networks, such as efficientnet-lite0; this "
        "model needs the embedded data"
    )


IMAGENET = TrainingDomain(
    name="imagenet",
    classes=tuple(class_table()["wnid"]),
    image_size_px=SIZE_PX,
    train=_no_training,
    unbiased=_no_training,
)
