"""Rows of results and the leaderboards computed from them.

`runs.csv` is the long form, one row a score of a run, appended and never rewritten;
`<suite>.csv` is a table computed from it. How a score is computed is not here: see
`benchmarks.core.scores`.
"""

from __future__ import annotations

import csv
import io
import math
import os
import platform
import subprocess
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.core.scores import Score
from benchmarks.core.statistics import mean
from benchmarks.core.suite import Suite
from benchmarks.records.csv_cells import csv_text, guarded, unguarded
from benchmarks.records.predictions import Run
from benchmarks.report.tables import percent
from cgn.device.precision import described
from cgn.io.locks import locked
from cgn.io.writing import write_text


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


ENOUGH_SEEDS = 3
COLUMNS = [field.name for field in fields(Row)]
_TEXT = [field.name for field in fields(Row) if field.type == "str"]
_SLOT = ["suite", "protocol", "source", "model", "seed", "variant", "metric"]
_RESULT = ["data_sha256", "weights_sha256", "value", "low", "high", "n"]


def environment(device: torch.device | str) -> dict[str, str]:
    """Describe device, versions, commit and time, under the names that `Row` has for them."""
    return {
        "device": described(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@contextmanager
def alone(results: Path) -> Iterator[None]:
    """Let no other process write to a folder of results inside the block.

    Whoever writes several files that belong together, or reads them, does it in here. Where there
    is no such folder, or nothing can be written, there is nobody to keep out.
    """
    if not results.is_dir() or not os.access(results, os.W_OK):
        yield
        return
    with locked(results / "runs.csv"):
        yield


def append(rows: Iterable[Row], results: Path) -> int:
    """Add rows to `runs.csv`; what is there stays as it is, byte for byte.

    A row that repeats the newest one of its suite, protocol, source, model, seed, variant and
    metric, with the same data, weights and values, is skipped: running a command twice adds
    nothing. The file is replaced as a whole under a lock, so that no interruption can leave
    half a row and no two processes lose each other's rows.

    Args:
        rows: What to add.
        results: The folder of `runs.csv`; made if it is missing.

    Returns:
        How many rows were added.

    Raises:
        ValueError: If `runs.csv` is not one of ours.
    """
    results.mkdir(parents=True, exist_ok=True)
    path = results / "runs.csv"
    with alone(results):
        runs = read_runs(results)
        newest = runs.drop_duplicates(_SLOT, keep="last").set_index(_SLOT)[_RESULT].to_dict("index")
        new = [row for row in rows if not _repeats(row, newest)]
        if new:
            header = ",".join(COLUMNS) + "\n"
            old = path.read_text() if path.exists() else header
            if not old.startswith(header):  # written before some column existed
                old = csv_text(runs)
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            cells = (asdict(row).items() for row in new)
            writer.writerows({name: guarded(cell) for name, cell in row} for row in cells)
            write_text(path, old + ("" if old.endswith("\n") else "\n") + text.getvalue())
    return len(new)


def read_runs(results: Path) -> pd.DataFrame:
    """Read `runs.csv`: one row a score of a run, columns as the fields of `Row`.

    Args:
        results: The folder of `runs.csv`; one of before `generator_seed` gets an empty one.

    Returns:
        The table, oldest row first; empty if there is no file yet.

    Raises:
        ValueError: If the file is not one of ours.
    """
    path = results / "runs.csv"
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    types = {"seed": int, "n": int} | dict.fromkeys(_TEXT, str)
    try:
        # Only an empty value means "undefined": a model may be called "null".
        runs = pd.read_csv(
            path,
            dtype=types,
            keep_default_na=False,
            na_values={name: ["", "nan"] for name in ("value", "low", "high")},
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read ({error}); restore it from git") from None
    if list(runs.columns) == COLUMNS[:-1]:
        runs["generator_seed"] = ""
    if list(runs.columns) != COLUMNS:
        raise ValueError(f"{path} has other columns than {COLUMNS}; restore it from git")
    return runs.assign(**{name: runs[name].map(unguarded) for name in _TEXT})


def leaderboard(runs: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """Compute one suite's table: one row a model, ranked among those scored on the same images.

    Only rows of the suite's current protocol count, of each model and seed the newest. With
    two seeds or more, a value is the mean over seeds and its interval the t-interval over
    seeds, cut where the score ends: what other seeds would give on these very images. (For what
    other images would give, too, see `benchmarks.records.compare`.) With one seed, the interval is
    the one over images. Column `interval` says which. The lowest of many groups is low by chance
    with every seed, so for a score with an estimate of its own the ends are the means of the seeds'
    own.

    Args:
        runs: From `read_runs`.
        suite: The suite.

    Returns:
        Columns protocol, source, data_sha256, rank, model, seeds, generators (how many CGNs or
        GANs the seeds were trained on), n, then for the primary
        score its key, key_low, key_high and interval, then these three for each other score.
        The rank is one more than the number of models whose whole interval of the primary score
        is better, so models whose intervals overlap may share one. Heads of a model
        ("model/head"), and shipped weights of one ("shipped:model"), are listed for diagnosis,
        without a rank; data sources and different test
        images never share a ranking.
    """
    ours = runs[(runs["suite"] == suite.name) & (runs["protocol"] == suite.protocol)]
    newest = ours.drop_duplicates(_SLOT, keep="last")
    primary = next(score for score in suite.scores if score.key == suite.primary)
    scores = [primary, *(score for score in suite.scores if score is not primary)]
    same_images = ["protocol", "source", "data_sha256"]
    records = [
        dict(zip([*same_images, "model"], names, strict=True)) | _summary(group, scores)
        for names, group in newest.groupby([*same_images, "model"])
    ]
    columns = [*same_images, "rank", "model", "seeds", "generators", "n", *_score_columns(scores)]
    if not records:
        return pd.DataFrame(columns=columns)
    table = pd.DataFrame(records)
    ranked = table[~table["model"].str.contains("/|^shipped:")]
    ranks = [_ranks(rows, primary) for _, rows in ranked.groupby(same_images)]
    table["rank"] = pd.concat(ranks) if ranks else pd.NA
    table["rank"] = table["rank"].astype("Int64")
    worse = table[suite.primary] * (-1 if primary.higher_is_better else 1)
    order = [*same_images, "rank", "worse", "model"]
    return table.assign(worse=worse).sort_values(order, ignore_index=True)[columns]


def _ranks(rows: pd.DataFrame, primary: Score) -> pd.Series:
    """Rank models on the same images: one more than those whose whole interval is better.

    An undefined score comes last.
    """
    ends = rows[[f"{primary.key}_low", f"{primary.key}_high"]].to_numpy(float)
    low, high = ends.T if primary.higher_is_better else -ends.T[::-1]
    better = (low[None, :] > high[:, None]).sum(axis=1)
    undefined = np.isnan(low)
    better[undefined] = (~undefined).sum()
    return pd.Series(1 + better, index=rows.index)


def write_leaderboards(results: Path, suites: Iterable[Suite]) -> list[Path]:
    """Rewrite `<suite>.csv` of every suite that has rows, atomically.

    Args:
        results: The folder of `runs.csv`.
        suites: The suites.

    Returns:
        The files written.
    """
    written = []
    with alone(results):
        runs = read_runs(results)
        for suite in suites:
            if (runs["suite"] == suite.name).any():
                path = results / f"{suite.name}.csv"
                write_text(path, csv_text(leaderboard(runs, suite)))
                written.append(path)
    return written


def with_few_seeds(runs: pd.DataFrame, suite: Suite) -> list[str]:
    """Name the ranked models of a suite that stand on fewer seeds than an interval should.

    Args:
        runs: From `read_runs`.
        suite: The suite; networks that nobody trains here, on ImageNet's own images, have but one
            state, and are not named.

    Returns:
        Suite, source and model of each.
    """
    if suite.decision_rule is not None:
        return []
    board = leaderboard(runs, suite)
    few = board[board["rank"].notna() & (board["seeds"] < ENOUGH_SEEDS)]
    return [f"{suite.name} {source} {model}" for source, model in few[["source", "model"]].values]


def markdown(results: Path, suites: Iterable[Suite], source: str = "embedded") -> str:
    """Compute one table of all suites' primary scores, in Markdown, for a README.

    Args:
        results: Folder with `runs.csv`.
        suites: One column each.
        source: Which data's rows are shown.

    Returns:
        One row a model, ordered by its mean over the suites; cells are percent with the 95 %
        interval. Models trained at another correlation are left out, for not every suite has
        them. Empty if there are no rows.
    """
    runs = read_runs(results)
    texts: dict[str, pd.Series] = {}
    means: dict[str, pd.Series] = {}
    for suite in suites:
        board = leaderboard(runs, suite)
        usual = board["rank"].notna() & ~board["model"].str.contains("@", regex=False)
        board = board[(board["source"] == source) & usual].set_index("model")
        keys = [suite.primary, f"{suite.primary}_low", f"{suite.primary}_high"]
        label = f"{suite.name}<br>{suite.primary.replace('_', ' ')}"
        texts[label] = pd.Series(
            {
                name: percent(value, low, high)
                for name, value, low, high in board[keys].itertuples()
            },
            dtype=str,
        )
        means[label] = board[suite.primary]
    order = pd.DataFrame(means).mean(axis=1).sort_values(ascending=False).index
    if order.empty:
        return ""
    cells = pd.DataFrame(texts).loc[order].fillna("-")
    lines = [["model", *cells.columns], ["---"] * (1 + len(cells.columns))]
    lines += [[str(name), *row] for name, row in zip(cells.index, cells.to_numpy(), strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _summary(group: pd.DataFrame, scores: Sequence[Score]) -> dict[str, object]:
    """One model's seeds, n, scores and kind of interval."""
    n_seeds = group["seed"].nunique()
    primary = _of_score(group, scores[0])
    summary: dict[str, object] = {
        "seeds": n_seeds,
        "generators": group.loc[group["generator_seed"] != "", "generator_seed"].nunique(),
        "n": int(primary["n"].iloc[-1]) if len(primary) else 0,
        "interval": "images, one seed" if n_seeds == 1 else f"t over {n_seeds} seeds",
    }
    for score in scores:
        names = (score.key, f"{score.key}_low", f"{score.key}_high")
        summary |= dict(zip(names, _mean_and_interval(_of_score(group, score), score), strict=True))
    return summary


def _of_score(group: pd.DataFrame, score: Score) -> pd.DataFrame:
    """One model's rows of one score, a row a seed."""
    return group[(group["variant"] == score.variant) & (group["metric"] == score.metric)]


def _mean_and_interval(rows: pd.DataFrame, score: Score) -> tuple[float, float, float]:
    """Mean and ends of the interval, over seeds if there are several."""
    if len(rows) == 0:
        return np.nan, np.nan, np.nan
    if len(rows) == 1:
        return tuple(rows[["value", "low", "high"]].iloc[0])
    if score.estimate is not None:
        return tuple(rows[["value", "low", "high"]].mean())
    value, *ends, _ = mean(rows["value"].to_numpy(float))
    low, high = np.clip(ends, score.lowest, score.highest)
    return value, float(low), float(high)


def _score_columns(scores: Sequence[Score]) -> list[str]:
    """The leaderboard's columns of scores, `interval` after the primary one."""
    names = [[score.key, f"{score.key}_low", f"{score.key}_high"] for score in scores]
    return [*names[0], "interval", *(name for three in names[1:] for name in three)]


def _repeats(row: Row, newest: Mapping[Hashable, Mapping[Hashable, Any]]) -> bool:
    """Whether the newest row of the same slot says the same; NaN equals NaN."""
    cells = asdict(row)
    found = newest.get(tuple(cells[name] for name in _SLOT))
    return found is not None and all(_same(cells[name], found[name]) for name in _RESULT)


def _same(cell: Any, stored: Any) -> bool:
    """Whether two cells are equal, but for the last digit that reading a CSV may cost."""
    if isinstance(cell, float):
        return math.isclose(cell, stored, rel_tol=1e-12) or (cell != cell and stored != stored)
    return bool(cell == stored)


@cache
def _commit() -> str:
    """Commit of the checkout this file lies in; empty where there is none or no git."""
    here = Path(__file__).parents[2]
    # Results change with every run: they do not make the code another one.
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!results"]
    try:
        commit, changed = (
            subprocess.run(
                ["git", "-C", here, *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], changes)
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}-dirty" if changed else commit
