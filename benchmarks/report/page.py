"""The report: one HTML page that holds all results and needs nothing else.

The page itself is `report.html` beside this file; what is drawn in it, `benchmarks.report.figures`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from benchmarks.core.suite import Suite
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.predictions import load_runs
from benchmarks.records.published import compare_to_published
from benchmarks.records.runs import RUN_COLUMNS, exclusive, last_of_runs, read_runs
from benchmarks.report.figures import (
    correlation_sweep,
    correlation_sweep_rows,
    cue_shares,
    cues_figure,
    effects_figure,
    robustness_figure,
)
from benchmarks.report.tables import chance, percent
from cgn.data.image_set import ImageSet
from cgn.io.writing import write_text

N_DISPUTED = 12  # images of a suite that are shown
N_A_CLASS = 2  # of them of one class


def write_report(
    path: Path,
    results: Path,
    suites: Sequence[Suite],
    images: Mapping[str, Mapping[str, ImageSet]],
    sheets: Mapping[str, bytes],
) -> None:
    """Write the page.

    Args:
        path: The file.
        results: The folder of `runs.csv` and `predictions`.
        suites: What to report, in this order; those without rows are left out.
        images: For each suite by name, its embedded test images by variant.
        sheets: For each world by name, a PNG of what its CGN draws.

    Raises:
        ValueError: If there are no rows, or predictions cannot be read.
    """
    with exclusive(results):
        runs = read_runs(results)
        parts = [_suite(suite, runs, results, images[suite.name]) for suite in suites]
    parts = [part for part in parts if part["boards"]]
    if not parts:
        raise ValueError(f"{results} holds no rows to report; run a model first")
    shown = {suite.world.name for suite in suites if any(p["name"] == suite.name for p in parts)}
    page = _page().render(
        parts=parts,
        sheets={name: _data("image/png", png) for name, png in sheets.items() if name in shown},
        runs=_provenance(runs),
    )
    write_text(path, page)


def _page() -> Any:
    """Load the template; whatever comes from files is escaped."""
    folder = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=folder, autoescape=True, undefined=StrictUndefined).get_template(
        "report.html"
    )


def _suite(
    suite: Suite, runs: pd.DataFrame, results: Path, images: Mapping[str, ImageSet]
) -> dict[str, Any]:
    """Collect what the page says of one suite."""
    board = leaderboard(runs, suite)
    groups = board.groupby(["source", "data_sha256"], sort=False)
    boards = [_board(suite, source, rows) for (source, _), rows in groups]
    # A sweep over the correlation has a figure of its own, and too many models for the others.
    usual = board["rank"].notna() & ~board["model"].str.contains("@", regex=False)
    embedded = board[(board["source"] == "embedded") & usual]
    names = list(embedded["model"])
    seeds = dict(zip(names, load_runs(results, suite, "embedded", names), strict=True))
    first = {name: tables[0] for name, tables in seeds.items() if tables}
    variant = next(s.variant for s in suite.scores if s.key == suite.primary).split("-")[-1]
    return {
        "name": suite.name,
        "asks": suite.question,
        "protocol": suite.protocol,
        "boards": boards,
        "published": _published(suite, board),
        "figures": _figures(suite, embedded, seeds, variant) + _sweep(suite, runs),
        "disputed": _disputed(suite, first, variant, images[variant]) if first else [],
    }


def _board(suite: Suite, source: object, rows: pd.DataFrame) -> dict[str, Any]:
    """One table: its head, and for each cell what is shown and what sorts it."""
    ordered = sorted(suite.scores, key=lambda score: score.key != suite.primary)
    lines = []
    for row in rows.to_dict("records"):
        cells = [
            (
                percent(row[score.key], row[f"{score.key}_low"], row[f"{score.key}_high"]),
                "" if pd.isna(row[score.key]) else f"{row[score.key]:.6f}",
            )
            for score in ordered
        ]
        rank = "" if pd.isna(row["rank"]) else str(row["rank"])
        lines.append({"rank": rank, "model": row["model"], "seeds": row["seeds"], "cells": cells})
    return {
        "source": source,
        "n": int(rows["n"].iloc[0]),
        "interval": ", ".join(sorted(set(rows["interval"]))),
        "scores": [
            (score.key.replace("_", " "), "" if score.higher_is_better else "lower is better")
            for score in ordered
        ],
        "chance": [chance(score) for score in ordered],
        "rows": lines,
    }


def _published(suite: Suite, board: pd.DataFrame) -> list[dict[str, str]]:
    """Published scores beside ours, if any of ours is there."""
    rows = compare_to_published(suite, board)
    if rows.empty or rows["here"].isna().all():
        return []
    words = rows[["model", "kind", "source", "measured", "verdict"]].astype(str)
    intervals = {
        "value": rows[["value", "low", "high"]],
        "here": rows[["here", "here_low", "here_high"]].dropna(),
    }
    for name, ends in intervals.items():
        words[name] = pd.Series([percent(*row) for row in ends.to_numpy()], ends.index, dtype=str)
    return words.fillna("").to_dict("records")  # type: ignore[return-value]


def _figures(
    suite: Suite, board: pd.DataFrame, seeds: Mapping[str, list[pd.DataFrame]], variant: str
) -> list[dict[str, str]]:
    """Draw which cue the models follow, and robust against standard accuracy."""
    found = []
    shares = {}
    effects = {
        score.variant.removeprefix("do_"): score.key
        for score in suite.scores
        if score.metric == "effect"
    }
    if effects and len(board):
        figure = effects_figure(board, effects)
        said = "; ".join(
            f"{row['model']}: "
            + ", ".join(f"{factor} {100 * row[key]:.0f} %" for factor, key in effects.items())
            for _, row in board.iterrows()
        )
        title = "Causal effect of each factor"
        return [{"title": title, "alt": said} | _pictures(figure.light, figure.dark)]
    for name, tables in seeds.items():
        means = pd.DataFrame([cue_shares(table, variant) for table in tables]).mean()
        shares[name] = {str(cue): float(share) for cue, share in means.items()}
    if any(shares.values()):
        said = "; ".join(
            f"{name}: " + ", ".join(f"{cue} {100 * share:.0f} %" for cue, share in of_model.items())
            for name, of_model in shares.items()
        )
        figure = cues_figure(shares)
        found.append(
            {"title": f"Which cue do models follow? ({variant})", "alt": said}
            | _pictures(figure.light, figure.dark)
        )
    if suite.standard is not None and len(board):
        said = "; ".join(
            f"{row['model']}: {100 * row[suite.standard]:.0f} %, {100 * row[suite.primary]:.0f} %"
            for _, row in board.iterrows()
        )
        figure = robustness_figure(board, suite.standard, suite.primary)
        found.append(
            {"title": "Robust against standard", "alt": said} | _pictures(figure.light, figure.dark)
        )
    return found


def _sweep(suite: Suite, runs: pd.DataFrame) -> list[dict[str, str]]:
    """Draw the score over the correlation of the training images, if there are such rows."""
    rows = correlation_sweep_rows(runs, suite)
    if rows.empty:
        return []
    said = "; ".join(
        f"{row['model']}: {100 * row[suite.primary]:.0f} %" for _, row in rows.iterrows()
    )
    figure = correlation_sweep(runs, [suite], list(dict.fromkeys(rows["plain"])))
    title = "The less closely texture and background follow the class in training"
    return [{"title": title, "alt": said} | _pictures(figure.light, figure.dark)]


def _pictures(light: str, dark: str) -> dict[str, str]:
    """Both drawings as addresses that hold their data."""
    return {
        "light": _data("image/svg+xml", light.encode()),
        "dark": _data("image/svg+xml", dark.encode()),
    }


def _disputed(
    suite: Suite, tables: Mapping[str, pd.DataFrame], variant: str, images: ImageSet
) -> list[dict[str, Any]]:
    """Choose the images on which models give the most different answers, and show them.

    Of images of the same object only the most disputed one is shown, and few of each class.
    """
    answers = pd.DataFrame(
        {
            name: table[table["variant"] == variant].set_index("index")["prediction"]
            for name, table in tables.items()
        }
    )
    if len(answers) != len(images):
        return []
    order = pd.DataFrame(
        {
            "answers": answers.nunique(axis=1),
            "id": images.ids.numpy(),
            "shape": images.factors.shape.numpy(),
        }
    )
    order = order.sample(frac=1, random_state=0)
    order = order.sort_values("answers", ascending=False, kind="stable").drop_duplicates("id")
    chosen = order.groupby("shape").head(N_A_CLASS).index[:N_DISPUTED]
    classes = suite.world.classes
    return [
        {
            "src": _data("image/png", _png(images.pixels[index])),
            "truth": classes[int(images.factors.shape[index])],
            "answers": [
                (name, classes[answers[name][index]], answers[name][index] == truth)
                for name in answers.columns
            ],
        }
        for index in chosen
        for truth in [int(images.factors.shape[index])]
    ]


def _png(pixels: torch.Tensor) -> bytes:
    """Encode one image, (3, H, W) uint8."""
    file = io.BytesIO()
    Image.fromarray(pixels.movedim(0, -1).contiguous().numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()


def _data(kind: str, content: bytes) -> str:
    """Turn a file into an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _provenance(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Say once a run where its rows come from."""
    columns = [*RUN_COLUMNS, "commit", "device", "torch", "time"]
    return [
        {str(name): cell for name, cell in row.items()}
        for row in last_of_runs(runs)[columns].to_dict("records")
    ]
