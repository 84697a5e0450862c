"""Predictions on disk: one row an image, from which every score can be computed again."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cgn.io.locks import short_name
from cgn.io.schema import checked, parsed
from cgn.io.text import printable
from cgn.io.writing import written

# Narrow types, for the files lie in git.
SCHEMA = pa.schema(
    {
        "variant": pa.string(),
        "index": pa.int32(),
        "id": pa.int64(),
        "shape": pa.int16(),
        "texture": pa.int16(),
        "background": pa.int16(),
        "prediction": pa.int16(),
        "confidence": pa.float32(),
    }
)
# Further columns that some suites have: decisions by other rules and counts, and probabilities.
FURTHER = {r"prediction_\w+|rank|misled|drawn": pa.int16(), r"p_\w+|log_odds": pa.float32()}
_COUNTED = {"index": "DELTA_BINARY_PACKED", "id": "DELTA_BINARY_PACKED"}
_KEY = b"cgn-bench"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was run on what: everything a prediction depends on.

    Attributes:
        suite: Name of the suite.
        protocol: The suite's protocol version.
        source: Where its data came from, as `DataSource.name`.
        data_sha256: Hash of all test images and labels.
        model: Name of the model; a head of it as "model/head".
        weights_sha256: Hash of its weights.
        seed: Seed of its training.
    """

    suite: str
    protocol: str
    source: str
    data_sha256: str
    model: str
    weights_sha256: str
    seed: int

    def path(self, results: Path, view: str = "") -> Path:
        """Return where the predictions of this run lie; those of a `View` have its name.

        Example:
            >>> run = Run(suite="in9", protocol="1", source="embedded", data_sha256="",
            ...           model="cgn-ensemble/shape", weights_sha256="", seed=2)
            >>> run.path(Path("results")).as_posix()
            'results/predictions/in9/embedded/cgn-ensemble__shape/seed2.parquet'
        """
        return predictions_path(results, self.suite, self.source, self.model, self.seed, view)


def save(predictions: pd.DataFrame, path: Path, run: Run) -> None:
    """Write predictions to a parquet file, atomically.

    Args:
        predictions: A table with the columns of `SCHEMA`, and any that `FURTHER` matches, one row
            an image; of confidences, probabilities and log-odds three decimals are kept.
        path: The file; its folder is made if it is missing.
        run: Kept in the file beside the table.

    Raises:
        ValueError: If columns are missing, or labels do not fit the schema.
    """
    schema = pa.schema([*SCHEMA, *filter(None, map(_further, predictions.columns))])
    rounded = predictions.round({one.name: 3 for one in schema if one.type == pa.float32()})
    try:
        table = pa.Table.from_pandas(rounded, schema, preserve_index=False)
    except (KeyError, pa.ArrowException) as error:
        raise ValueError(f"these are no predictions: {error}") from None
    table = table.replace_schema_metadata({_KEY: json.dumps(asdict(run))})
    repeated = [name for name in schema.names if name not in _COUNTED]
    with written(path) as place:
        pq.write_table(
            table,
            place,
            compression="zstd",
            compression_level=19,
            use_dictionary=repeated,
            column_encoding=_COUNTED,
        )


def load(path: Path) -> tuple[pd.DataFrame, Run]:
    """Read what `save` wrote.

    Returns:
        The table, with the columns of `SCHEMA`, the variant as a category, and those that `FURTHER`
        matches, and the run it belongs to.

    Raises:
        ValueError: If there is no such file, it is cut short, or it holds something else.
    """
    try:
        table = pq.ParquetFile(path).read(use_threads=False)
        names = table.schema.names
        predictions = table.to_pandas(use_threads=False, strings_to_categorical=True)
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not a whole parquet file ({error}); delete it and run the model again"
        ) from None
    header = (table.schema.metadata or {}).get(_KEY)
    if header is None or [name for name in names if _further(name) is None] != SCHEMA.names:
        raise ValueError(f"{path} is a parquet file, but not predictions of this benchmark")
    where = f"the header of {path}"
    return predictions, checked(Run, parsed(header, where), where)


def predictions_path(
    results: Path, suite: str, source: str, model: str, seed: int, view: str = ""
) -> Path:
    """Return where the predictions of a model with one seed lie; those of a `View` have its name.

    Raises:
        ValueError: If a name would lead out of the folder of results.

    Example:
        >>> predictions_path(Path("results"), "in9", "embedded", "shipped:cgn/shape", 0).as_posix()
        'results/predictions/in9/embedded/shipped--cgn__shape/seed0.parquet'
    """
    name = f"{view}-seed{seed}.parquet" if view else f"seed{seed}.parquet"
    return _folder(results, suite, source, model) / name


def _further(name: str) -> pa.Field | None:
    """A column beyond those that all predictions have, if it may be one."""
    kinds = [kind for names, kind in FURTHER.items() if re.fullmatch(names, name)]
    return pa.field(name, kinds[0]) if kinds else None


def _folder(results: Path, suite: str, source: str, model: str) -> Path:
    """Where the predictions of a model lie, under a name that every system takes for a folder.

    Raises:
        ValueError: If a name would lead out of the folder of results.
    """
    plain = printable(model).replace("/", "__").replace(":", "--").replace("\\", "--")
    folders = suite, source, short_name(plain)
    for name in folders:
        if name in ("", ".", "..") or {"/", "\\"} & set(name):
            raise ValueError(f"{name!r} is no name of a suite, a source or a model")
    return results.joinpath("predictions", *folders)
