"""Tables of the README and of `docs`, from rows of results and headers of the shipped CGNs.

Each stands between two marks, `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.core.suite import Suite, format_model_id
from benchmarks.generator_track import read_track
from benchmarks.records.leaderboard import leaderboards
from benchmarks.records.published import EXTRA_MODELS, official_rows, published
from benchmarks.records.runs import newest, read_runs
from benchmarks.report.generators import track_tables
from benchmarks.report.table import NONE, Cell, Table, fraction, interval
from benchmarks.report.tables import primary_scores_table
from cgn.data.factors import Factors
from cgn.io.weights import load_tensors

EVERY_SEED = ("cgn", "cgn-abduct")  # their seeds differ in the CGN, too
# How many of the counterfactuals have a texture and background that the CGN drew.
DRAWN = {
    "paste": "none",
    "cgn-abduct:borrowed": "only what no other image shows",
    "cgn-abduct": "half",
    "cgn-abduct:drawn": "all",
    "cgn": "all, and the shapes",
}
NOTHING = "There are no rows yet."
LOOSE = 0.99  # the correlation beside 1


def rewritten(text: str, blocks: Mapping[str, str]) -> str:
    """Put new tables between the marks of a text.

    Args:
        text: Of the README.
        blocks: From `readme_blocks`.

    Raises:
        ValueError: If the text lacks the marks of a block, or has them twice.

    Example:
        >>> rewritten("<!-- a -->old<!-- /a -->.", {"a": "new"}).split()
        ['<!--', 'a', '-->', 'new', '<!--', '/a', '-->.']
    """
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"the text must have {begin} and {end} once each")
        inside = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        whole = f"{begin}\n{block}\n{end}"
        text = inside.sub(lambda _, whole=whole: whole, text)  # type: ignore[misc]
    return text


def documents(readme: Path, blocks: Mapping[str, str]) -> dict[Path, str]:
    """Put the tables of `readme_blocks` into a README and the pages of `docs` beside it.

    Returns:
        The new texts of the files that have tables.

    Raises:
        ValueError: If no file has the marks of a block, or one file has them twice.
    """
    texts = {}
    for path in (readme, *sorted(readme.parent.glob("docs/*.md"))):
        text = path.read_text(encoding="utf-8")
        own = {name: block for name, block in blocks.items() if f"<!-- {name} -->" in text}
        if own:
            texts[path] = rewritten(text, own)
            blocks = {name: block for name, block in blocks.items() if name not in own}
    if blocks:
        raise ValueError(f"no file has a place for <!-- {next(iter(blocks))} -->")
    return texts


def readme_blocks(
    results: Path, suites: Sequence[Suite], models: Iterable[str], weights: Path
) -> dict[str, str]:
    """Make all tables of the README and of `docs`.

    Args:
        results: The folder of `runs.csv`.
        suites: The seven.
        models: Names of all recipes, in their order.
        weights: The folder of the shipped CGNs.

    Returns:
        Markdown by the name of its marks.
    """
    mnists = [suite for suite in suites if suite.name.endswith("mnist")]
    runs = read_runs(results)
    boards = leaderboards(results, suites)
    ours = {suite.name: official_rows(board) for suite, board in boards if suite in mnists}
    tables = {
        "leaderboard": primary_scores_table(boards, "embedded"),
        "CGNs": cgns(weights, dict.fromkeys(suite.world.name for suite in suites)),
        "beside what was published": beside_published(mnists, ours),
        "models on full MNIST": on_full_mnist(mnists, ours, models),
    }
    blocks = {name: table.to_markdown() for name, table in tables.items()}
    return blocks | {
        "every seed": every_seed(runs, mnists, ours),
        "ablation": ablation(boards, ours),
        "generators": generator_track(results),
    }


def ablation(boards: Sequence[tuple[Suite, pd.DataFrame]], ours: Mapping[str, pd.DataFrame]) -> str:
    """Lay out what drawn and borrowed surfaces add to copy and paste, a line a recipe."""
    embedded = [(suite, _of_source(board, "embedded")) for suite, board in boards]
    full = [(suite, ours[suite.name]) for suite, _ in boards if suite.name in ours]
    heads = [suite.name for suite, _ in embedded]
    heads += [f"{_short(suite)}, full MNIST" for suite, _ in full]
    table = Table(["model", "drawn by the CGN", *heads])
    for model, share in DRAWN.items():
        cells = [_score(board, model, suite.primary) for suite, board in (*embedded, *full)]
        if any(cells):
            table.add(f"`{model}`", share, *cells)
    return table.to_markdown() if table.rows else NOTHING


def _of_source(board: pd.DataFrame, source: str) -> pd.DataFrame:
    """Choose the rows of one source of data."""
    return board[board["source"] == source]


def generator_track(results: Path) -> str:
    """Lay out the generator track, a table a world."""
    tables = track_tables(read_track(results))
    parts = [f"**{table.title}**\n\n{table.to_markdown()}" for table in tables]
    return "\n\n".join(parts) or NOTHING


def cgns(weights: Path, worlds: Iterable[str]) -> Table:
    """List for each shipped CGN how long it was trained, and how effective its factors are."""
    table = Table(["world", "steps", "seconds", *Factors._fields])
    for world in worlds:
        about: Mapping[str, Any] = load_tensors(weights / f"{world}.safetensors")[1]
        scores = [about["quality"].get(f"{factor}_effectiveness") for factor in Factors._fields]
        cells = [None if score is None else fraction(score) for score in scores]
        table.add(world, f"{about['config']['steps']:,}", f"{about['seconds']:,.0f}", *cells)
    return table


def beside_published(mnists: Sequence[Suite], ours: Mapping[str, pd.DataFrame]) -> Table:
    """Hold published accuracies on full MNIST against ours, a line a classifier."""
    facts = pd.concat([published(suite) for suite in mnists])
    table = Table(["trained on", "by", "seeds", *map(_short, mnists)])
    for measured in dict.fromkeys([*facts["measured"], *EXTRA_MODELS]):
        of_model = facts[facts["measured"] == measured]
        for (words, kind, source), group in of_model.groupby(
            ["model", "kind", "source"], sort=False
        ):
            values = group.set_index("suite")["value"]
            cells = [fraction(values[s.name]) if s.name in values else None for s in mnists]
            by = f"{str(source).split(',')[0]}, {kind}"
            table.add(str(words).removeprefix("CNN, "), by, Cell("", None), *cells)
        cells = [_score(ours[suite.name], measured, suite.primary) for suite in mnists]
        if any(cells):
            table.add(f"`{measured}`", "here", _seeds(ours.values(), measured), *cells)
    return table


def every_seed(
    runs: pd.DataFrame, mnists: Sequence[Suite], ours: Mapping[str, pd.DataFrame]
) -> str:
    """List the accuracy of every seed behind a mean."""
    sentences = []
    for model in EVERY_SEED:
        parts = []
        for suite in mnists:
            of_model = ours[suite.name][ours[suite.name]["model"] == model]
            same = ["protocol", "source", "data_sha256", "model"]
            rows = newest(runs).merge(of_model[same], on=same)
            key = rows["variant"] + "_" + rows["metric"]
            rows = rows[(rows["suite"] == suite.name) & (key == suite.primary)]
            rows = rows.sort_values("seed")
            values = ", ".join(f"{100 * value:.1f}" for value in rows["value"])
            parts.append(f"{_short(suite)} {values or NONE}")
        sentences.append(f"Every seed of `{model}`, in their order: {'; '.join(parts)}.")
    return "\n".join(sentences)


def on_full_mnist(
    mnists: Sequence[Suite], ours: Mapping[str, pd.DataFrame], models: Iterable[str]
) -> Table:
    """Show the models that have rows on full MNIST, at correlation 1 and a little below."""
    heads = [head for suite in mnists for head in (_short(suite), f"at {LOOSE}")]
    table = Table(["model", *heads])
    for model in models:
        names = [format_model_id(model, correlation) for correlation in (1, LOOSE)]
        cells = [_score(ours[s.name], name, s.primary) for s in mnists for name in names]
        if any(cells):
            table.add(f"`{model}`", *cells)
    return table


def _score(board: pd.DataFrame, model: str, key: str) -> Cell | None:
    """One score of a model with its interval; None if it has no row."""
    rows = board[board["model"] == model][[key, f"{key}_low", f"{key}_high"]]
    return None if rows.empty else interval(*rows.iloc[0])


def _seeds(boards: Iterable[pd.DataFrame], model: str) -> str:
    """How many seeds a model has, one number if all boards agree."""
    counts = {int(n) for board in boards for n in board.loc[board["model"] == model, "seeds"]}
    return ", ".join(map(str, sorted(counts)))


def _short(suite: Suite) -> str:
    """Name of a suite of MNIST for the head of a column."""
    return suite.name.removesuffix("-mnist")
