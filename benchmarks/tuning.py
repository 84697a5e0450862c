"""How settings are chosen: objects held out of the training split, and what each try came to.

No test image takes part. The held-out objects are shown twice: as biased as the training images,
and with free factors, as the test images have them. Which of the two decides is the rule of
selection, which every row of results names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks.records.csv_cells import csv_text, unguarded
from cgn.data.image_set import ImageSet
from cgn.io.locks import locked
from cgn.io.writing import write_text

FILE = "tuning.csv"
N_LARGE = 25_000  # objects of a large training split
N_HELD_OUT = 5_000  # the last of a large one: those of MNIST's 50,000 that docs/ablations uses
SHARE_HELD_OUT = 0.2  # of the objects of each class, the last, in a small one


@dataclass(frozen=True, kw_only=True)
class Try:
    """What one rule says of one candidate's settings. Field order is column order.

    Attributes:
        suite: Name of the suite whose world it is.
        source: Of the data, as in rows of results.
        correlation: Of the training images.
        recipe: Name of the recipe.
        settings: What was tried.
        rule: "free factors" or "biased validation".
        seed: Of the fit.
        value: Accuracy on the held-out objects, a fraction.
        n: Held-out images.
        device: Where it was fitted.
        torch: Version of PyTorch.
        python: Version of Python.
        commit: Commit of this repository; empty if unknown.
        time: When, UTC, ISO 8601.
    """

    suite: str
    source: str
    correlation: float
    recipe: str
    settings: str
    rule: str
    seed: int
    value: float
    n: int
    device: str
    torch: str
    python: str
    commit: str
    time: str


COLUMNS = [field.name for field in fields(Try)]
_TEXT = [field.name for field in fields(Try) if field.type == "str"]
_SLOT = ["suite", "source", "correlation", "recipe", "settings", "rule", "seed"]


def held_out(images: ImageSet) -> Tensor:
    """Choose the images whose objects are held out of fits that compare settings.

    Of up to 25,000 objects it is the last fifth of each class (of embedded MNIST 80 digits of
    400), of more the last 5,000 (of MNIST the last of the 50,000). Sets of the same objects have
    the same ones held out, however they are painted.

    Args:
        images: A training set; `ids` tell its objects.

    Returns:
        (N,) bool.

    Example:
        >>> from cgn.data.factors import Factors
        >>> labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
        >>> pixels = torch.zeros(10, 3, 2, 2, dtype=torch.uint8)
        >>> images = ImageSet(pixels, Factors.aligned(labels), torch.arange(10))
        >>> held_out(images).nonzero()[:, 0].tolist()
        [4, 9]
    """
    ids = images.ids
    objects = ids.unique()
    if len(objects) > N_LARGE:
        return torch.isin(ids, objects[-N_HELD_OUT:])
    last = []
    for label in images.factors.shape.unique():
        of_class = ids[images.factors.shape == label].unique()
        last.append(of_class[-max(1, round(SHARE_HELD_OUT * len(of_class))) :])
    return torch.isin(ids, torch.cat(last))


def append_tries(tries: Iterable[Try], results: Path) -> None:
    """Add rows to `tuning.csv`; the file is replaced as a whole under a lock.

    Raises:
        ValueError: If the file is not one of ours.
    """
    results.mkdir(parents=True, exist_ok=True)
    path = results / FILE
    with locked(path):
        new = pd.DataFrame([asdict(each) for each in tries], columns=COLUMNS)
        old = read_tries(results)
        write_text(path, csv_text(pd.concat([old, new]) if len(old) else new))


def read_tries(results: Path) -> pd.DataFrame:
    """Read `tuning.csv`, of each try the newest row; empty if there is none.

    Raises:
        ValueError: If the file is not one of ours.
    """
    path = results / FILE
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it from git") from None
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{path} has other columns than {COLUMNS}; restore it from git")
    for name in _TEXT:
        table[name] = table[name].map(unguarded)
    return table.drop_duplicates(_SLOT, keep="last", ignore_index=True)


def compare_settings(tries: pd.DataFrame) -> pd.DataFrame:
    """Average the tries of one recipe over seeds, and say which is best by each rule.

    Args:
        tries: Rows of one recipe, from `read_tries`.

    Returns:
        One row a candidate, in the order of the rows: settings; the mean accuracy of each suite
        and rule, under (suite, rule); the mean over the suites under ("mean", rule), undefined
        unless the candidate was tried on all of them; and ("best", rule), bool.
    """
    order, suites, rules = (tries[name].unique() for name in ("settings", "suite", "rule"))
    values = tries.groupby(["settings", "suite", "rule"])["value"].mean()
    columns = pd.MultiIndex.from_product([suites, rules])
    table = values.unstack(["suite", "rule"]).reindex(order).reindex(columns=columns)
    for rule in rules:
        table["mean", rule] = table[[(suite, rule) for suite in suites]].mean(axis=1, skipna=False)
    for rule in rules:
        mean = table["mean", rule]
        table["best", rule] = mean == mean.max()
    return table
