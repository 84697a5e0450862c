"""Predictions of any benchmark, read from files of anyone's, and compared in pairs.

A file has one row an image and run: `id`, `label`, and `prediction` or logits, and optionally
`cluster` and `seed`. CSV and Parquet have columns of these names, with logits in columns `logit_0`,
`logit_1` and so on, or in Parquet a column `logits` of lists; NumPy's `.npz` has arrays of these
names, with `logits` (N, C).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.core.scores import Score
from benchmarks.records.compare import Difference, compare

COLUMNS = ("id", "label", "prediction", "cluster", "seed")
ENDINGS = (".csv", ".parquet", ".npz")
_NEEDS = "it needs id, label, and prediction or logits (logit_0, logit_1, …), one row an image"


def read_predictions(path: Path | str) -> pd.DataFrame:
    """Read predictions from a file of anyone's.

    Args:
        path: A `.csv`, `.parquet` or `.npz`, see the module. Labels and predictions may be numbers
            or names; with logits, labels are the numbers of the classes from 0.

    Returns:
        Columns id, label, prediction, cluster (the id where the file has none) and seed (0), one
        row an image and seed.

    Raises:
        ValueError: If the file cannot be read, lacks a column, leaves a cell empty, has an image
            twice, or has seeds on different images.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"predictions are read from *{', *'.join(ENDINGS)}, got {path}")
    try:
        table = _READERS[path.suffix.lower()](path)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (OSError, ValueError, KeyError, pa.ArrowException, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    return check_predictions(table, str(path))


def check_predictions(table: pd.DataFrame, name: str = "the table") -> pd.DataFrame:
    """Complete a table of predictions, and refuse what no comparison can be made of.

    Args:
        table: Columns as in a file.
        name: What messages call it.

    Returns:
        As from `read_predictions`.

    Raises:
        ValueError: As for `read_predictions`.

    Example:
        >>> table = pd.DataFrame({"id": [1, 2], "label": [0, 1], "prediction": [0, 0]})
        >>> check_predictions(table).columns.tolist()
        ['id', 'label', 'prediction', 'cluster', 'seed']
    """
    logits = _logits(table, name)
    table = table.assign(prediction=logits.argmax(axis=1)) if logits is not None else table
    missing = [column for column in COLUMNS[:3] if column not in table]
    if missing:
        raise ValueError(f"{name} lacks {' and '.join(missing)}; {_NEEDS}")
    if table.empty:
        raise ValueError(f"{name} has no rows")
    if logits is not None:
        _require_class_numbers(table["label"], logits.shape[1], name)
    table = table.assign(
        cluster=table["cluster" if "cluster" in table else "id"], seed=table.get("seed", 0)
    )[[*COLUMNS]]
    for column in COLUMNS:
        if table[column].isna().any():
            place = int(table[column].isna().to_numpy().argmax())
            raise ValueError(f"{name} has no {column} in row {place + 1}")
    twice = table.duplicated(["id", "seed"])
    if twice.any():
        row = table[twice].iloc[0]
        raise ValueError(f"{name} has image {row['id']!s} twice with seed {row['seed']!s}")
    _require_same_images(table, name)
    return table


def accuracy_of_predictions() -> Score:
    """Share of images whose prediction is their label, by cluster."""

    def count(predictions: pd.DataFrame) -> pd.DataFrame:
        hits = (predictions["prediction"] == predictions["label"]).astype(int)
        table = pd.DataFrame({"hits": hits, "images": 1})
        return table.groupby(predictions["cluster"].to_numpy()).sum()

    return Score(variant="predictions", metric="accuracy", count=count, chance=np.nan)


def compare_predictions(
    first: pd.DataFrame | Path | str, second: pd.DataFrame | Path | str
) -> Difference:
    """Compare the accuracy of two models on the same images of any benchmark.

    The interval covers other clusters of images and other seeds, as in
    `benchmarks.records.compare.compare`.

    Args:
        first: Predictions of the first model: a table or a file as for `read_predictions`.
        second: The same of the second.

    Returns:
        The difference with its interval, p-value and smallest detectable effect; fractions.

    Raises:
        ValueError: If the two are not on the same images with the same labels and clusters.

    Example:
        >>> images = {"id": range(200), "label": [0, 1] * 100}
        >>> right = pd.DataFrame({**images, "prediction": [0, 1] * 100})
        >>> wrong = pd.DataFrame({**images, "prediction": [0, 0] * 100})
        >>> difference = compare_predictions(right, wrong)
        >>> difference.value, difference.p_value < 1e-9
        (0.5, True)
    """
    tables = [
        check_predictions(each, f"the {which} table")
        if isinstance(each, pd.DataFrame)
        else read_predictions(each)
        for which, each in (("first", first), ("second", second))
    ]
    tables = _on_the_same_images(tables)
    runs = [[of_seed for _, of_seed in table.groupby("seed")] for table in tables]
    return compare(accuracy_of_predictions(), *runs)


def _on_the_same_images(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Mark tables as of one variant, and give both the clusters that either names.

    Raises:
        ValueError: If images, labels or clusters differ.
    """
    images = [table.drop_duplicates("id").set_index("id").sort_index() for table in tables]
    first, second = images
    for here, there, which in ((first, second, "second"), (second, first, "first")):
        lost = here.index.difference(there.index)
        if len(lost):
            raise ValueError(
                f"the {which} predictions lack {len(lost)} of {len(here)} images, such as "
                f"{lost[0]!s}: only the same images can be paired"
            )
    _require_equal(first["label"], second["label"], "label")
    own = [(each["cluster"].astype(str) == each.index.astype(str)).all() for each in images]
    if not any(own):
        _require_equal(first["cluster"], second["cluster"], "cluster")
    clusters = (second if own[0] else first)["cluster"]
    return [
        table.assign(variant="predictions", cluster=table["id"].map(clusters)) for table in tables
    ]


def _require_equal(first: pd.Series, second: pd.Series, column: str) -> None:
    """Refuse two columns, by id, that say different things of the same image."""
    differs = (first != second).to_numpy()
    if differs.any():
        place = int(differs.argmax())
        raise ValueError(
            f"image {first.index[place]!s} has {column} {first.iloc[place]!s} in the first "
            f"predictions and {second.iloc[place]!s} in the second"
        )


def _require_same_images(table: pd.DataFrame, name: str) -> None:
    """Refuse seeds on different images, and an image whose label or cluster depends on the seed."""
    n_seeds, n_images = table["seed"].nunique(), table["id"].nunique()
    if len(table) != n_seeds * n_images:
        raise ValueError(f"{name} has seeds on different images: each needs all {n_images}")
    for column in ("label", "cluster"):
        several = table.groupby("id", sort=False)[column].nunique() > 1
        if several.any():
            raise ValueError(f"{name} gives image {several.idxmax()!s} several {column}s")


def _require_class_numbers(labels: pd.Series, n_classes: int, name: str) -> None:
    """Refuse labels that are no numbers of the logits' classes."""
    whole = pd.api.types.is_integer_dtype(labels)
    if not whole or labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"{name} has logits of {n_classes} classes, so labels must be whole numbers from 0 to "
            f"{n_classes - 1}"
        )


def _logits(table: pd.DataFrame, name: str) -> NDArray[np.float64] | None:
    """The logits of a table that has no predictions, (N, C).

    Raises:
        ValueError: If numbers of classes are skipped, rows differ in length, or one is not finite.
    """
    numbered = [column for column in table if str(column).startswith("logit_")]
    if "prediction" in table or not (numbered or "logits" in table):
        return None
    if numbered:
        expected = [f"logit_{place}" for place in range(len(numbered))]
        if set(numbered) != set(expected):
            raise ValueError(f"{name} skips some of the columns {expected[0]} to {expected[-1]}")
        logits = table[expected].to_numpy()
    else:
        lengths = table["logits"].map(len)
        if lengths.nunique() > 1:
            raise ValueError(f"{name} has rows with {lengths.min()} and {lengths.max()} logits")
        logits = np.stack([*table["logits"]]) if len(table) else np.empty((0, 1))
    try:
        logits = logits.astype(float)
    except ValueError:
        raise ValueError(f"{name} has logits that are no numbers") from None
    if not np.isfinite(logits).all():
        raise ValueError(f"{name} has logits that are empty, infinite or NaN")
    return np.asarray(logits)


def _read_csv(path: Path) -> pd.DataFrame:
    """Read columns as they are: a class may be called "nan", and "1" may be a number."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def _read_parquet(path: Path) -> pd.DataFrame:
    table: pd.DataFrame = pq.read_table(path, partitioning=None).to_pandas()
    return table


def _read_npz(path: Path) -> pd.DataFrame:
    """Read arrays of equal length; nothing in the file is unpickled."""
    with np.load(path, allow_pickle=False) as arrays:
        columns: dict[Hashable, object] = {
            name: list(arrays[name]) if name == "logits" else arrays[name]
            for name in arrays.files
            if name in (*COLUMNS, "logits")
        }
    return pd.DataFrame(columns)


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_npz,
}
