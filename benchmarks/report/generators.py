"""Table and figure of the generator track."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from benchmarks.generator_track import (
    RIVAL,
    PairedDifference,
    differences_to_paste,
    newest_of_track,
)
from benchmarks.report.figures import COLOURS, Svg, both_shades
from benchmarks.report.table import Cell, Table, fraction, interval

MEASURES = {
    "abducted_mask_iou": "mask overlap",
    "shape_effectiveness": "effectiveness, shape",
    "texture_effectiveness": "effectiveness, texture",
    "background_effectiveness": "effectiveness, background",
    "shape_leakage": "leakage to shape",
    "coverage": "coverage",
    "diversity": "diversity",
    "abducted_composition_10": "composition, 10 times",
    "abducted_do_texture_minimality": "minimality, texture",
    "abducted_do_background_minimality": "minimality, background",
}


def accuracies(rows: pd.DataFrame) -> list[str]:
    """Name the measures of rows that are accuracies of classifiers."""
    return [name for name in dict.fromkeys(rows["measure"]) if " " in name]


def track_tables(rows: pd.DataFrame) -> list[Table]:
    """Lay out the track, one table a world and source of data.

    Args:
        rows: From `benchmarks.generator_track.read_track`.
    """
    rows = newest_of_track(rows)
    return [
        _table(f"{world}, {source} data", group)
        for (world, source), group in rows.groupby(["world", "source"], sort=False)
    ]


def _table(title: str, rows: pd.DataFrame) -> Table:
    """Lay out the generators of one world, a column a generator."""
    groups = {str(name): group for name, group in rows.groupby("generator", sort=False)}
    table = Table(
        ["measure", *groups],
        title,
        f"percent, means over seeds; minus {RIVAL}: paired differences with their 95 % interval "
        "over generators",
    )
    table.add("generators", *map(_n_generators, groups.values()))
    means = rows.groupby(["measure", "generator"])["value"].mean()
    for measure in (name for name in [*MEASURES, *accuracies(rows)] if name in means):
        of_measure = means[measure]
        cells = [fraction(of_measure[name]) if name in of_measure else None for name in groups]
        table.add(MEASURES.get(measure, measure), *cells, is_bold=measure not in MEASURES)
        if measure not in MEASURES:
            differences = differences_to_paste(rows[rows["measure"] == measure])
            pairs = [_difference(name, differences) for name in groups]
            table.add(f"minus {RIVAL}", *(difference for difference, _ in pairs))
            table.add("p", *(p_value for _, p_value in pairs))
    return table


def _difference(
    generator: str, differences: Mapping[str, PairedDifference]
) -> tuple[Cell | None, Cell | None]:
    """Return the cells of a paired difference and its p-value."""
    if generator == RIVAL or generator not in differences:
        return None, None
    value, low, high, p_value, _ = differences[generator]
    if np.isnan(low):
        return fraction(value), None
    return interval(value, low, high), Cell(f"{p_value:.2g}", p_value)


def _n_generators(rows: pd.DataFrame) -> int:
    """Count the generators behind the rows of one: trained weights, or draws where it has none."""
    seeds = rows["generator_seed"].where(rows["generator_seed"] != "", rows["seed"].astype(str))
    return int(seeds.nunique())


def comparisons(rows: pd.DataFrame) -> dict[str, dict[str, PairedDifference]]:
    """Compare accuracies with those of copy and paste.

    Args:
        rows: From `benchmarks.generator_track.read_track`.

    Returns:
        For each suite and source of data, in words, the differences by generator; those without
        any are left out.
    """
    found = {}
    rows = newest_of_track(rows)
    rows = rows[rows["measure"].isin(accuracies(rows))]
    for (_, source, measure), group in rows.groupby(["world", "source", "measure"], sort=False):
        differences = differences_to_paste(group)
        differences.pop(RIVAL, None)
        if differences:
            found[f"{measure}, {source} data"] = differences
    return found


def differences_figure(compared: Mapping[str, Mapping[str, PairedDifference]]) -> Svg:
    """Draw how much more accurate classifiers are with each generator than with copy and paste.

    A panel a suite, a point a generator, with the 95 % interval over generators where there are
    enough.

    Args:
        compared: From `comparisons`, not empty.
    """
    panels = [_panel(title, differences) for title, differences in compared.items()]
    return both_shades(panels, height=1.4 + 0.35 * max(map(len, compared.values())))


def _panel(title: str, differences: Mapping[str, PairedDifference]) -> Callable[[Axes], None]:
    """Prepare the panel of one suite."""
    names: Sequence[str] = list(differences)[::-1]

    def draw(axes: Axes) -> None:
        for place, name in enumerate(names):
            value, low, high, *_ = differences[name]
            errors = None if np.isnan(low) else [[100 * (value - low)], [100 * (high - value)]]
            axes.errorbar(
                100 * value, place, xerr=errors, fmt="o", capsize=3, color=COLOURS["shape"]
            )
        axes.axvline(0, color=COLOURS["neither"], linestyle=":")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(-0.5, len(names) - 0.5)
        axes.set_xlabel(f"accuracy minus that of {RIVAL}, points")
        axes.set_title(title, fontsize=10)

    return draw
