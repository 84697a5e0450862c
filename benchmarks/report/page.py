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
from benchmarks.generator_track import RIVAL, read_track
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.published import compare_to_published
from benchmarks.records.runs import exclusive, last_of_runs, read_runs
from benchmarks.records.stored_runs import load_stored_runs
from benchmarks.report.figures import (
    Svg,
    correlation_sweep,
    correlation_sweep_rows,
    cue_shares,
    cues_figure,
    effects_figure,
    robustness_figure,
)
from benchmarks.report.generators import comparisons, differences_figure, track_tables
from benchmarks.report.table import Table
from benchmarks.report.tables import leaderboard_table, published_table
from cgn.data.image_set import ImageSet
from cgn.io.writing import write_text

N_DISPUTED = 12  # images of a suite that are shown
N_A_CLASS = 2  # of them of one class
PUBLISHED = ["as published", "kind", "published", "model here", "here", "verdict", "source"]


def write_report(
    path: Path,
    results: Path,
    suites: Sequence[Suite],
    images: Mapping[str, Mapping[str, ImageSet]],
    sheets: Mapping[str, bytes],
) -> None:
    """Write the page.

    Args:
        path: An HTML file.
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
        provenance=_provenance(runs),
        track=_track(read_track(results)),
    )
    write_text(path, page)


def _page() -> Any:
    """Load the template; whatever comes from files is escaped."""
    folder = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=folder, autoescape=True, undefined=StrictUndefined).get_template(
        "report.html"
    )


def _track(rows: pd.DataFrame) -> dict[str, Any]:
    """Collect what the page says of generators."""
    compared, figures = comparisons(rows), []
    if compared:
        words = _in_words(
            {
                title: {name: difference.value for name, difference in differences.items()}
                for title, differences in compared.items()
            }
        )
        title = f"Accuracy with each generator, minus that with {RIVAL}"
        figures.append(_figure(title, differences_figure(compared), words))
    return {"tables": track_tables(rows), "figures": figures}


def _suite(
    suite: Suite, runs: pd.DataFrame, results: Path, images: Mapping[str, ImageSet]
) -> dict[str, Any]:
    """Collect what the page says of one suite."""
    board = leaderboard(runs, suite, results)
    boards = [
        (source, leaderboard_table(suite, rows))
        for (source, _), rows in board.groupby(["source", "data_sha256"], sort=False)
    ]
    facts = compare_to_published(suite, board)
    was_run = not facts.empty and facts["here"].notna().any()
    # A sweep over the correlation has a figure of its own, and too many models for the others.
    usual = board["rank_low"].notna() & ~board["model"].str.contains("@", regex=False)
    embedded = board[(board["source"] == "embedded") & usual]
    names = list(embedded["model"])
    runs_of = load_stored_runs(results, suite, "embedded", names)
    seeds = {
        name: [run.predictions for run in stored]
        for name, stored in zip(names, runs_of, strict=True)
    }
    first = {name: tables[0] for name, tables in seeds.items() if tables}
    variant = next(s.variant for s in suite.scores if s.key == suite.primary).split("-")[-1]
    return {
        "name": suite.name,
        "asks": suite.question,
        "boards": boards,
        "published": published_table(suite, facts, PUBLISHED) if was_run else None,
        "figures": _figures(suite, embedded, seeds, variant) + _sweep(suite, board),
        "disputed": _disputed(suite, first, variant, images[variant]) if first else [],
    }


def _figures(
    suite: Suite, board: pd.DataFrame, seeds: Mapping[str, list[pd.DataFrame]], variant: str
) -> list[dict[str, str]]:
    """Draw which cue the models follow, and robust against standard accuracy."""
    effects = {
        score.variant.removeprefix("do_"): score.key
        for score in suite.scores
        if score.metric == "shapley_value"
    }
    if effects and len(board):
        values = {
            row["model"]: {factor: row[key] for factor, key in effects.items()}
            for row in board.to_dict("records")
        }
        title = "Causal effect of each factor"
        return [_figure(title, effects_figure(board, effects), _in_words(values))]
    figures = []
    shares = {
        name: dict(pd.DataFrame([cue_shares(table, variant) for table in tables]).mean())
        for name, tables in seeds.items()
    }
    if any(shares.values()):
        title = f"Which cue do models follow? ({variant})"
        figures.append(_figure(title, cues_figure(shares), _in_words(shares)))
    if suite.standard is not None and len(board):
        words = "; ".join(
            f"{row['model']}: {100 * row[suite.standard]:.0f} %, {100 * row[suite.primary]:.0f} %"
            for row in board.to_dict("records")
        )
        drawn = robustness_figure(board, suite.standard, suite.primary)
        figures.append(_figure("Robust against standard", drawn, words))
    return figures


def _sweep(suite: Suite, board: pd.DataFrame) -> list[dict[str, str]]:
    """Draw the score over the correlation of the training images, if there are such rows."""
    rows = correlation_sweep_rows(board)
    if rows.empty:
        return []
    models = zip(rows["model"], rows[suite.primary], strict=True)
    words = "; ".join(f"{model}: {100 * value:.0f} %" for model, value in models)
    drawn = correlation_sweep([(suite, board)], list(dict.fromkeys(rows["plain"])))
    title = "The less closely texture and background follow the class in training"
    return [_figure(title, drawn, words)]


def _in_words(values: Mapping[str, Mapping[str, float]]) -> str:
    """Write the fractions of each model by name, for whom a picture says nothing."""
    return "; ".join(
        f"{model}: {', '.join(f'{name} {100 * value:.0f} %' for name, value in of_model.items())}"
        for model, of_model in values.items()
    )


def _figure(title: str, drawn: Svg, words: str) -> dict[str, str]:
    """A figure with both drawings as addresses that hold their data."""
    light, dark = (_data("image/svg+xml", svg.encode()) for svg in drawn)
    return {"title": title, "alt": words, "light": light, "dark": dark}


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


def _provenance(runs: pd.DataFrame) -> Table:
    """Say once a run where its rows come from."""
    hashes = ["data_sha256", "weights_sha256", "commit"]
    columns = ["suite", "model", "seed", "protocol", "source", *hashes, "device", "torch", "time"]
    table = Table(
        [name.removesuffix("_sha256") for name in columns],
        caption="Where each run comes from; hashes are cut to eight digits, whole ones are in "
        "runs.csv",
    )
    last = last_of_runs(runs)
    last = last.assign(**{name: last[name].str[:8] for name in hashes})
    for row in last[columns].to_dict("records"):
        table.add(*row.values(), key=row["model"])
    return table
