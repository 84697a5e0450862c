"""Rows of results: `runs.csv`, one row a score of a run, appended and never changed.

Only this module knows which rows are of the same run and which of the same score of it; all others
ask it for the newest.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from benchmarks.records.csv_cells import csv_text, guarded, unguarded
from benchmarks.records.newest_index import NewestIndex
from benchmarks.records.predictions import Run
from cgn.io.errors import write_errors
from cgn.io.locks import locked
from cgn.io.writing import write_all, write_text

FILE = "runs.csv"
LONGEST_ROW = 1 << 16  # bytes


@dataclass(frozen=True, kw_only=True)
class Row(Run):
    """One score of one run. Field order is column order, those of `Run` first.

    Attributes:
        variant: The test variant, or two joined by "-".
        metric: Name of the score.
        value: The score, a fraction.
        low: Lower end of its 95 % interval over images.
        high: Upper end of it.
        n: Number of images.
        images_per_second: Speed of the evaluation.
        device: What it ran on.
        torch: Version of PyTorch.
        python: Version of Python.
        commit: Commit of this repository, with "-dirty" if it was changed; empty if unknown.
        time: When, UTC, ISO 8601.
        generator_seed: Seed of the generator whose images it was trained on; empty without one.
        selected_on: What the model's settings were chosen by; empty where it is unknown.
    """

    variant: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    images_per_second: float
    device: str
    torch: str
    python: str
    commit: str
    time: str
    generator_seed: str = ""
    selected_on: str = ""


COLUMNS = [field.name for field in fields(Row)]
RUN_COLUMNS = [field.name for field in fields(Run)]
_RUN_SLOT = ["suite", "protocol", "source", "model", "seed"]
_SLOT = [*_RUN_SLOT, "variant", "metric"]
_RESULT = ["data_sha256", "weights_sha256", "value", "low", "high", "n"]
_LATER = ["generator_seed", "selected_on"]  # older files lack the last of these, or both
_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
_SCHEMA = pa.schema([(field.name, _TYPES[str(field.type)]) for field in fields(Row)])
_TEXT = [field.name for field in fields(Row) if field.type == "str"]


def newest(runs: pd.DataFrame) -> pd.DataFrame:
    """Choose the newest row of each score: of one suite, protocol, source, model and seed."""
    return _of_current_settings(runs).drop_duplicates(_SLOT, keep="last")


def last_of_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Choose one row a run, the last: of one suite, protocol, source, model and seed."""
    return _of_current_settings(runs).drop_duplicates(_RUN_SLOT, keep="last")


def _of_current_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Leave out rows that don't say what settings were selected on, if later ones of a model do.

    They are of other settings: seeds of both must not be averaged.
    """
    says = runs["selected_on"].fillna("") != ""
    model = [runs[name] for name in ("suite", "protocol", "source", "model")]
    return runs[says | ~says.groupby(model).transform("any")]


def by_run(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """Split rows by run: by suite, protocol, source, model and seed."""
    return [rows for _, rows in runs.groupby(_RUN_SLOT, sort=False)]


def repeated(runs: pd.DataFrame) -> pd.DataFrame:
    """Choose rows that say the same as the newest row of the same score before them."""
    result = [*RUN_COLUMNS, "variant", "metric", "value", "low", "high", "n"]
    before = runs.groupby(_SLOT, sort=False)[result].shift()
    same = (runs[result] == before) | (runs[result].isna() & before.isna())
    return runs[same.all(axis=1)]


def history_of_scores(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pair the newest row of each score with the one before it of the same images and weights.

    Returns:
        The earlier rows and the newest, in the same order; only of scores that have both.
    """
    same = [*_SLOT, "data_sha256", "weights_sha256"]
    kept = runs.reset_index(drop=True)
    last = kept.groupby(same, sort=False).tail(1).index
    earlier = kept.drop(last).drop_duplicates(same, keep="last")
    pairs = (
        kept.loc[last]
        .reset_index()
        .merge(earlier.reset_index(), on=same, suffixes=("_now", "_before"))
    )
    before, now = (kept.loc[pairs[f"index_{when}"]] for when in ("before", "now"))
    return before.reset_index(drop=True), now.reset_index(drop=True)


def run_of(row: Mapping[Any, Any]) -> Run:
    """Return the run that a row is of."""
    return Run(**{name: row[name] for name in RUN_COLUMNS})


@contextmanager
def exclusive(results: Path) -> Iterator[None]:
    """Let no other process write to a folder of results inside the block.

    Whoever writes several files that belong together, or reads them, does it in here. Where there
    is no such folder, or nothing can be written, there is nobody to keep out.
    """
    if not results.is_dir() or not os.access(results, os.W_OK):
        yield
        return
    with locked(results / FILE):
        yield


def append(rows: Iterable[Row], results: Path) -> int:
    """Add rows to `runs.csv`; what is there stays as it is, byte for byte.

    A row that repeats the newest one of its suite, protocol, source, model, seed, variant and
    metric, with the same data, weights and values, is skipped: running a command twice adds
    nothing. The cost does not depend on how many rows are there. A row that a killed process
    left half-written is removed.

    Args:
        rows: What to add.
        results: The folder of `runs.csv`; made if it is missing.

    Returns:
        How many rows were added.

    Raises:
        ValueError: If `runs.csv` is not one of ours.
        WriteError: If it cannot be written; nothing was added.
    """
    results.mkdir(parents=True, exist_ok=True)
    path = results / FILE
    with exclusive(results):
        _prepare(path)
        with NewestIndex(path, lambda: _entries(path)) as index:
            new = [row for row in rows if index.get(_slot_key(row)) != _result_key(row)]
            if new:
                _write_rows(path, new)
                index.add((_slot_key(row), _result_key(row)) for row in new)
    return len(new)


def read_runs(results: Path, suites: Collection[str] | None = None) -> pd.DataFrame:
    """Read `runs.csv`: one row a score of a run, columns as the fields of `Row`.

    Args:
        results: The folder of `runs.csv`; columns that an older one lacks are empty.
        suites: Names of the suites whose rows are read; None for all. Memory is taken for these
            rows alone.

    Returns:
        The table, oldest row first; empty if there is no file yet.

    Raises:
        ValueError: If the file is not one of ours.
    """
    path = results / FILE
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    empty = pa.RecordBatch.from_pylist([], _SCHEMA)  # pandas needs one piece at least
    runs: pd.DataFrame = pa.Table.from_batches([*_batches(path, suites), empty]).to_pandas()
    for name in _TEXT:
        marked = runs[name].str.startswith("'")
        if marked.any():
            runs.loc[marked, name] = runs.loc[marked, name].map(unguarded)
    return runs


def _batches(path: Path, suites: Collection[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read the rows of some suites piece by piece; cells are as they stand in the file."""
    try:
        columns = _header(path)
        kinds = pa.csv.ConvertOptions(
            column_types=_SCHEMA,
            include_columns=COLUMNS,
            include_missing_columns=True,
            null_values=["", "nan"],  # of numbers: a model may be called "null"
            strings_can_be_null=False,
        )
        read = pa.csv.ReadOptions(column_names=columns, skip_rows=1, block_size=1 << 22)
        with pa.OSFile(str(path)) as file:
            stream = file.get_stream(0, _whole_length(path, len(columns)))
            for batch in pa.csv.open_csv(stream, read_options=read, convert_options=kinds):
                if suites is not None:
                    names = pa.array([guarded(name) for name in suites], pa.string())
                    batch = batch.filter(pa.compute.is_in(batch["suite"], names))
                for place in range(len(columns), len(COLUMNS)):
                    empty = pa.array([""] * len(batch), pa.string())
                    batch = batch.set_column(place, COLUMNS[place], empty)
                yield batch
    except (pa.ArrowException, UnicodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it from git") from None


def _header(path: Path) -> list[str]:
    """Read the names of the columns.

    Raises:
        ValueError: If they are not those of rows.
    """
    with path.open("rb") as file:
        line = file.readline(LONGEST_ROW)
    columns = next(csv.reader([line.decode()]), [])
    if columns not in [COLUMNS[: len(COLUMNS) - n] for n in range(len(_LATER) + 1)]:
        raise ValueError(f"{path} has other columns than {COLUMNS}; restore it from git")
    return columns


def _whole_length(path: Path, n_columns: int) -> int:
    """Count the bytes of a file, without a last row that is not all there."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LONGEST_ROW))
        tail = file.read().rpartition(b"\n")[2]
    try:
        cells = next(csv.reader([tail.decode()], strict=True), [])
    except (UnicodeError, csv.Error):
        cells = []
    return size if len(cells) == n_columns else size - len(tail)


def _prepare(path: Path) -> None:
    """Make sure that there is a file with all columns."""
    if not path.exists():
        write_text(path, ",".join(COLUMNS) + "\n")
    elif _header(path) != COLUMNS:
        write_text(path, csv_text(read_runs(path.parent)))


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows at the end of a file, after the last row that is whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([guarded(cell) for cell in asdict(row).values()] for row in rows)
    length = _whole_length(path, len(COLUMNS))
    with write_errors(path), path.open("r+b", buffering=0) as file:
        file.seek(length - 1)
        ends = b"" if file.read(1) == b"\n" else b"\n"
        file.truncate(length)
        try:
            write_all(file, ends + text.getvalue().encode())
            os.fsync(file.fileno())
        except OSError:
            file.truncate(length)
            raise


def _entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Hash slot and result of every row of a file."""
    for batch in _batches(path):
        slots, results = (
            zip(*(batch[name].to_pylist() for name in names), strict=True)
            for names in (_SLOT, _RESULT)
        )
        for slot, result in zip(slots, results, strict=True):
            yield _key(slot), _key(result)


def _slot_key(row: Row) -> bytes:
    return _key(guarded(getattr(row, name)) for name in _SLOT)


def _result_key(row: Row) -> bytes:
    return _key(guarded(getattr(row, name)) for name in _RESULT)


def _key(cells: Iterable[Any]) -> bytes:
    """Hash cells; numbers by the digits that every way to write them keeps."""
    texts = (
        "nan" if cell is None else f"{cell:.12g}" if isinstance(cell, float) else str(cell)
        for cell in cells
    )
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=16).digest()
