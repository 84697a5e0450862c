"""Figures of the report, drawn by matplotlib as SVG, once for a light page and once for a dark one.

What they show is computed here from leaderboards and predictions; no model is needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
        >>> seen = pd.DataFrame({
        ...     "variant": "v", "shape": [0, 0], "texture": [1, 2], "background": -1,
        ...     "prediction": [0, 2],
        ... })
        >>> cue_shares(seen, "v")
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

    return _both(draw, height=1.1 + 0.38 * len(shares))


def robustness_figure(board: pd.DataFrame, standard: str, robust: str) -> Svg:
    """Draw the robust score over the standard one, with intervals, one mark a model.

    Args:
        board: Ranked rows of a leaderboard.
        standard: Key of the score on ordinary images.
        robust: Key of the primary score.
    """

    def draw(axes: Axes) -> None:
        for (_, row), marker in zip(board.iterrows(), MARKERS * len(board), strict=False):
            x, y = 100 * row[standard], 100 * row[robust]
            axes.errorbar(
                x,
                y,
                xerr=[[x - 100 * row[f"{standard}_low"]], [100 * row[f"{standard}_high"] - x]],
                yerr=[[y - 100 * row[f"{robust}_low"]], [100 * row[f"{robust}_high"] - y]],
                fmt=marker,
                capsize=2,
                label=row["model"],
            )
        axes.set_xlabel(f"{standard.replace('_', ' ')}, %")
        axes.set_ylabel(f"{robust.replace('_', ' ')}, %")
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)

    return _both(draw, height=3.6)


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
            values, low, high = (100 * rows[name] for name in (key, f"{key}_low", f"{key}_high"))
            axes.barh(
                np.arange(len(rows)) + 0.4 - height * (place + 0.5),
                values,
                xerr=[values - low, high - values],
                height=height,
                color=COLOURS[factor],
                ecolor=COLOURS["neither"],
                capsize=2,
                label=factor,
            )
        axes.set_yticks(np.arange(len(rows)), list(rows["model"]))
        axes.set_xlabel("average causal effect on decisions, points")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)

    return _both(draw, height=1.1 + 0.6 * len(board))


def _both(draw: Callable[[Axes], None], height: float) -> Svg:
    """Draw twice: black on nothing, and white on nothing."""
    light, dark = (_svg(draw, height, ink) for ink in ("#1a1a1a", "#e8e8e8"))
    return Svg(light, dark)


def _svg(draw: Callable[[Axes], None], height: float, ink: str) -> str:
    """Draw once; the same figure gives the same text."""
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = dict.fromkeys(inked, ink) | {"font.size": 10}
    with mpl.rc_context(style | {"svg.hashsalt": "cgn-bench", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()
