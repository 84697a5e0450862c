"""Figures of the report as SVG, once for a light page and once for a dark one."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.core.suite import Suite, parse_model_id

CUES = ("shape", "texture", "background")
# Okabe and Ito's colours, which people tell apart whatever their colour vision; neither is grey.
COLOURS = {
    "shape": "#0072B2",
    "object": "#0072B2",
    "texture": "#E69F00",
    "background": "#009E73",
    "neither": "#888888",
}
MARKERS = "osD^vP*X"
N_COLUMNS = 3  # panels side by side


class Svg(NamedTuple):
    """One figure for two kinds of page."""

    light: str
    dark: str


def cue_shares(predictions: pd.DataFrame, variant: str) -> dict[str, float]:
    """Count which cue predictions agree with, where the cues are of different classes.

    Args:
        predictions: Of one model and seed.
        variant: The test images.

    Returns:
        Share of predictions by cue, and "neither"; they sum to 1. Only cues whose label is known
        count; where texture always goes with shape, both are one cue, "object". Empty if there
        is but one cue.

    Example:
        >>> predictions = pd.DataFrame({
        ...     "variant": "v", "shape": [0, 0], "texture": [1, 2], "background": -1,
        ...     "prediction": [0, 2],
        ... })
        >>> cue_shares(predictions, "v")
        {'shape': 0.5, 'texture': 0.5, 'neither': 0.0}
    """
    rows = predictions[predictions["variant"] == variant]
    cues = [cue for cue in CUES if (rows[cue] >= 0).all()]
    is_object = "texture" in cues and bool((rows["texture"] == rows["shape"]).all())
    if is_object:
        cues.remove("texture")
    if len(cues) < 2:
        return {}
    labels = rows[cues].to_numpy()
    in_conflict = (np.diff(np.sort(labels, axis=1), axis=1) > 0).all(axis=1)
    if not in_conflict.any():
        return {}
    agreed = (labels == rows[["prediction"]].to_numpy())[in_conflict].mean(axis=0)
    names = ["object", *cues[1:]] if is_object else cues
    shares = {cue: float(share) for cue, share in zip(names, agreed, strict=True)}
    return shares | {"neither": max(0.0, 1 - sum(shares.values()))}


def cues_figure(shares: Mapping[str, Mapping[str, float]]) -> Svg:
    """Draw which cue each model follows, one bar a model.

    Args:
        shares: For each model, from `cue_shares`.
    """

    def draw(axes: Axes) -> None:
        names = list(shares)[::-1]
        left = np.zeros(len(names))
        for cue in COLOURS:
            widths = np.array([100 * shares[name].get(cue, 0.0) for name in names])
            if widths.any():
                axes.barh(names, widths, left=left, color=COLOURS[cue], label=cue, height=0.7)
            left += widths
        axes.set_xlim(0, 100)
        axes.set_xlabel("predictions, %")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False)

    return both_shades([draw], height=1.1 + 0.38 * len(shares))


def robustness_figure(board: pd.DataFrame, standard: str, robust: str) -> Svg:
    """Draw the robust score over the standard one, with intervals, one mark a model.

    Args:
        board: Ranked rows of a leaderboard.
        standard: Key of the score on ordinary images.
        robust: Key of the primary score.
    """

    def draw(axes: Axes) -> None:
        for place, model in enumerate(board["model"]):
            row = board.iloc[[place]]
            (x, x_errors), (y, y_errors) = (_percent(row, key) for key in (standard, robust))
            marker = MARKERS[place % len(MARKERS)]
            axes.errorbar(x, y, y_errors, x_errors, fmt=marker, capsize=2, label=model)
        axes.set(xlim=(0, 102), xlabel=_label(standard), ylim=(0, 102), ylabel=_label(robust))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)

    return both_shades([draw], height=3.6)


def effects_figure(board: pd.DataFrame, effects: Mapping[str, str]) -> Svg:
    """Draw how much each factor moves each model, with intervals, a group of bars a model.

    Args:
        board: Ranked rows of a leaderboard.
        effects: For each factor, the key of its effect.
    """

    def draw(axes: Axes) -> None:
        rows = board[::-1]
        height = 0.8 / len(effects)
        for place, (factor, key) in enumerate(effects.items()):
            values, errors = _percent(rows, key)
            axes.barh(
                np.arange(len(rows)) + 0.4 - height * (place + 0.5),
                values,
                xerr=errors,
                height=height,
                color=COLOURS[factor],
                ecolor=COLOURS["neither"],
                capsize=2,
                label=factor,
            )
        axes.set_yticks(np.arange(len(rows)), list(rows["model"]))
        axes.set_xlabel("Shapley value of the probability of a class, points")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)

    return both_shades([draw], height=1.1 + 0.6 * len(board))


def correlation_sweep_rows(board: pd.DataFrame) -> pd.DataFrame:
    """Find the models of a suite that were trained at other correlations than the usual one.

    Args:
        board: The suite's leaderboard.

    Returns:
        Ranked rows of the leaderboard, in the order of the correlation, with columns plain, the
        model's plain name, and correlation; of those models, data sources and test images that
        have a row below 1. Where some models have three correlations or more, those with two are
        left out: a table says as much. Empty if there are none.
    """
    board = board[board["rank_low"].notna()]
    names = [parse_model_id(name) for name in board["model"]]
    board = board.assign(plain=[n for n, _ in names], correlation=[rho for _, rho in names])
    images = ["source", "data_sha256"]
    line = board.groupby([*images, "plain"])["correlation"]
    board = board.assign(points=line.transform("nunique"), lowest=line.transform("min"))
    enough = board.groupby(images)["points"].transform("max").clip(upper=3)
    board = board[(board["lowest"] < 1) & (board["points"] >= enough)]
    return board.sort_values(["correlation", "plain"], ascending=[False, True])


def correlation_sweep(boards: Sequence[tuple[Suite, pd.DataFrame]], models: Sequence[str]) -> Svg:
    """Draw the primary score over how closely texture and background followed in training.

    A panel a suite and kind of its test images, a line a model, with intervals; to the left
    nothing in the training images left its class.

    Args:
        boards: Suites with their leaderboards; those without rows of a correlation below 1 get no
            panel.
        models: Plain names of the models, from `correlation_sweep_rows`.

    Raises:
        ValueError: If no suite has such rows.
    """
    panels: list[Callable[[Axes], None]] = []
    for suite, board in boards:
        rows = correlation_sweep_rows(board)
        rows = rows[rows["plain"].isin(models)]
        for (source, _), group in rows.groupby(["source", "data_sha256"]):
            title = f"{suite.name}, {source}"
            panels.append(_sweep_panel(suite, title, group, models, legend=not panels))
    if not panels:
        raise ValueError("no model was trained at a correlation below 1: there is nothing to draw")
    return both_shades(panels, height=3.6)


def _sweep_panel(
    suite: Suite, title: str, rows: pd.DataFrame, models: Sequence[str], *, legend: bool
) -> Callable[[Axes], None]:
    """Prepare one panel of a sweep; the lines are the same in all, so one legend is enough."""
    key = suite.primary
    (chance,) = (score.chance for score in suite.scores if score.key == key)

    def draw(axes: Axes) -> None:
        for place, model in enumerate(models):
            line = rows[rows["plain"] == model]
            y, errors = _percent(line, key)
            axes.errorbar(
                100 * (1 - line["correlation"]),
                y,
                errors,
                color=f"C{place % 10}",
                linestyle="-" if place < 10 else "--",  # the eleventh has the first one's colour
                marker=MARKERS[place % len(MARKERS)],
                markersize=4,
                capsize=2,
                label=model,
            )
        axes.axhline(100 * chance, color=COLOURS["neither"], linestyle=":", label="chance")
        # Correlations are chosen close to 1, where a hundredth matters most; 0 has its place too.
        axes.set_xscale("symlog", linthresh=0.5, linscale=0.5)
        ticks = sorted({round(100 * (1 - rho), 6) for rho in rows["correlation"]})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45)
        axes.minorticks_off()
        axes.set(xlim=(-0.1, 1.1 * ticks[-1]), xlabel="labels that leave the class, %")
        axes.set(ylim=(0, 102), ylabel=_label(key))
        axes.grid(alpha=0.25)
        axes.set_title(title, fontsize=10)
        if legend and axes.figure is not None:
            lines = axes.get_legend_handles_labels()
            axes.figure.legend(*lines, loc="outside lower center", ncols=5, frameon=False)

    return draw


def _percent(rows: pd.DataFrame, key: str) -> tuple[pd.Series, list[pd.Series]]:
    """One score of each row, and how far its interval reaches below and above, in percent."""
    value, low, high = (100 * rows[f"{key}{end}"] for end in ("", "_low", "_high"))
    return value, [value - low, high - value]


def _label(key: str) -> str:
    """Name a score for an axis."""
    return f"{key.replace('_', ' ')}, %"


def both_shades(panels: Sequence[Callable[[Axes], None]], height: float) -> Svg:
    """Draw panels side by side, twice: black on nothing, and white on nothing.

    Args:
        panels: Each draws one.
        height: Of a panel, in inches.
    """
    light, dark = (_svg(panels, height, ink) for ink in ("#1a1a1a", "#e8e8e8"))
    return Svg(light, dark)


def _svg(panels: Sequence[Callable[[Axes], None]], height: float, ink: str) -> str:
    """Draw once; the same figure gives the same text."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = dict.fromkeys(inked, ink) | {"font.size": 10}
    style |= {"svg.hashsalt": "cgn-bench", "svg.fonttype": "none", "text.parse_math": False}
    with mpl.rc_context(style):
        n_columns = min(len(panels), N_COLUMNS)
        n_rows = -(-len(panels) // n_columns)
        size = (6.4 if n_columns == 1 else 4.0 * n_columns, height * n_rows)
        figure = Figure(figsize=size, layout="constrained")
        for place, draw in enumerate(panels, start=1):
            axes = figure.add_subplot(n_rows, n_columns, place)
            axes.spines[["top", "right"]].set_visible(False)
            draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()
