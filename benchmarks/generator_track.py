"""The generator track: rows of how good generators are, and how they compare with copy and paste.

`generators.csv` has one row a generator, seed and measure; tables are computed from it.

Source:
    Student, The probable error of a mean, Biometrika 1908 (paired differences).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.core.statistics import mean
from benchmarks.records.csv_cells import csv_text, unguarded
from cgn.io.locks import locked
from cgn.io.writing import write_text

FILE = "generators.csv"
PROTOCOL = "generators@v1"
RIVAL = "paste"  # whom every generator is held against
ENOUGH = 3  # generators that an interval needs


@dataclass(frozen=True, kw_only=True)
class TrackRow:
    """One measure of one generator. Field order is column order.

    Attributes:
        world: The training domain.
        protocol: Version of the track; for the accuracy of classifiers that of the suite.
        source: Where the images come from, as in `runs.csv`.
        data_sha256: Hash of the biased training images; for accuracies of the test images.
        generator: Its name.
        seed: Of its images, and of the classifier fitted to them.
        generator_seed: That its weights were trained with; empty where it has none.
        measure: What was measured; "SUITE VARIANT_METRIC" for the accuracy of a classifier.
        value: A fraction, unless the measure is defined otherwise.
        n: Number of images behind it.
        device: What it ran on.
        torch: Version of PyTorch.
        python: Version of Python.
        commit: Commit of this repository, with "-dirty" if it was changed; empty if unknown.
        time: When, UTC, ISO 8601.
    """

    world: str
    protocol: str
    source: str
    data_sha256: str
    generator: str
    seed: int
    generator_seed: str
    measure: str
    value: float
    n: int
    device: str
    torch: str
    python: str
    commit: str
    time: str


COLUMNS = [field.name for field in fields(TrackRow)]
_SLOT = ["world", "source", "generator", "seed", "measure"]
_RESULT = ["protocol", "data_sha256", "generator_seed", "value", "n"]
_NUMBERS = ("seed", "value", "n")
_TEXT = [name for name in COLUMNS if name not in _NUMBERS]


def append_track(rows: Iterable[TrackRow], results: Path) -> None:
    """Add rows to `generators.csv`; the file is replaced as a whole under a lock.

    A row that says the same as the newest one of its generator, seed and measure is left out.

    Raises:
        ValueError: If the file is not one of ours.
    """
    results.mkdir(parents=True, exist_ok=True)
    path = results / FILE
    with locked(path):
        old = read_track(results)
        last = old.drop_duplicates(_SLOT, keep="last")[[*_SLOT, *_RESULT]]
        known = set(last.itertuples(index=False, name=None))
        new = [
            asdict(row)
            for row in rows
            if tuple(getattr(row, name) for name in (*_SLOT, *_RESULT)) not in known
        ]
        if new:
            added = pd.DataFrame(new, columns=COLUMNS)
            write_text(path, csv_text(pd.concat([old, added]) if len(old) else added))


def read_track(results: Path) -> pd.DataFrame:
    """Read `generators.csv`, oldest row first; empty if there is none.

    Raises:
        ValueError: If the file is not one of ours.
    """
    path = results / FILE
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(_TEXT, str),
            keep_default_na=False,
            na_values={name: ["", "nan"] for name in _NUMBERS},
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it from git") from None
    if list(table.columns) != COLUMNS:
        raise ValueError(f"{path} has other columns than {COLUMNS}; restore it from git")
    for name in _TEXT:
        table[name] = table[name].map(unguarded)
    return table


def newest_of_track(rows: pd.DataFrame) -> pd.DataFrame:
    """Choose the newest row of each measure of a generator and seed, on the newest data."""
    rows = rows.drop_duplicates(_SLOT, keep="last")
    images = ["world", "source", "measure"]
    last = rows.groupby(images)[["protocol", "data_sha256"]].transform("last")
    return rows[(rows[["protocol", "data_sha256"]] == last).all(axis=1)]


class PairedDifference(NamedTuple):
    """How much more a generator has of a measure than copy and paste with the same seeds.

    Attributes:
        value: Mean of the differences.
        low: Lower end of its 95 % interval over generators; NaN for fewer than `ENOUGH`.
        high: Upper end of it.
        p_value: How likely a difference as large is between equals; NaN as the ends.
        n_generators: How many generators there are.
    """

    value: float
    low: float
    high: float
    p_value: float
    n_generators: int


def paired_difference(values: NDArray[np.float64]) -> PairedDifference:
    """Test whether differences of pairs are 0 in the mean, by Student's paired test.

    Args:
        values: One difference a generator, (N,).

    Example:
        >>> paired_difference(np.array([0.02, 0.03, 0.04])).p_value < 0.05
        True
        >>> paired_difference(np.array([0.02])).value
        0.02
    """
    from scipy.stats import t as student_t  # seconds to import

    n = len(values)
    if n == 0:
        return PairedDifference(np.nan, np.nan, np.nan, np.nan, 0)
    value = float(values.mean())
    if n < ENOUGH:
        return PairedDifference(value, np.nan, np.nan, np.nan, n)
    estimate, error = mean(values), float(values.std(ddof=1)) / n**0.5
    if error == 0:
        p_value = 1.0 if value == 0 else 0.0
    else:
        p_value = float(2 * student_t.sf(abs(value) / error, n - 1))
    return PairedDifference(value, estimate.low, estimate.high, p_value, n)


def differences_to_paste(rows: pd.DataFrame) -> dict[str, PairedDifference]:
    """Compare each generator with copy and paste, seed by seed.

    Args:
        rows: Of one world, source and measure, from `newest_of_track`.

    Returns:
        By generator. Several seeds of one generator, such as published weights, count as one pair:
        their mean.
    """
    values = rows.pivot(index="seed", columns="generator", values="value")
    weights = rows.pivot(index="seed", columns="generator", values="generator_seed")
    differences = {}
    for name in values.columns if RIVAL in values else ():
        pairs = (values[name] - values[RIVAL]).dropna()
        seeds = weights[name][pairs.index]
        own = seeds.where(seeds != "", pairs.index.astype(str))
        differences[str(name)] = paired_difference(pairs.groupby(own).mean().to_numpy(float))
    return differences
