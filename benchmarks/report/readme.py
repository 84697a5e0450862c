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
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.published import EXTRA_MODELS, official_rows, published
from benchmarks.records.runs import newest, read_runs
from benchmarks.report.tables import percent
from cgn.data.factors import Factors
from cgn.io.weights import load_tensors

EVERY_SEED = ("cgn", "cgn-abduct")  # their seeds differ in the CGN, too
LOOSE = 0.99  # the correlation beside 1
NONE = "-"


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
    ours = {suite.name: official_rows(leaderboard(runs, suite)) for suite in mnists}
    return {
        "leaderboard": markdown(results, suites),
        "CGNs": cgns(weights, dict.fromkeys(suite.world.name for suite in suites)),
        "beside what was published": beside_published(mnists, ours),
        "every seed": every_seed(runs, mnists, ours),
        "models on full MNIST": on_full_mnist(mnists, ours, models),
    }


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


def cgns(weights: Path, worlds: Iterable[str]) -> str:
    """Tell of each shipped CGN how long it was trained, and how well it is understood."""
    lines = []
    for world in worlds:
        about: Mapping[str, Any] = load_tensors(weights / f"{world}.safetensors")[1]
        quality = about["quality"]
        scores = [quality.get(f"{factor}_effectiveness") for factor in Factors._fields]
        cells = [NONE if score is None else f"{100 * score:.1f}" for score in scores]
        lines.append([world, f"{about['config']['steps']:,}", f"{about['seconds']:,.0f}", *cells])
    return _table(["world", "steps", "seconds", *Factors._fields], lines)


def beside_published(mnists: Sequence[Suite], ours: Mapping[str, pd.DataFrame]) -> str:
    """Hold published accuracies on full MNIST against ours, a line a classifier."""
    facts = pd.concat([published(suite) for suite in mnists])
    lines = []
    for measured in dict.fromkeys([*facts["measured"], *EXTRA_MODELS]):
        of_model = facts[facts["measured"] == measured]
        for (words, kind, source), group in of_model.groupby(
            ["model", "kind", "source"], sort=False
        ):
            values = group.set_index("suite")["value"]
            cells = [f"{100 * values[s.name]:.1f}" if s.name in values else NONE for s in mnists]
            words = str(words).removeprefix("CNN, ")
            lines.append([words, f"{str(source).split(',')[0]}, {kind}", "", *cells])
        cells = [_cell(ours[suite.name], measured, suite.primary) for suite in mnists]
        if set(cells) != {NONE}:
            lines.append([f"`{measured}`", "here", _seeds(ours.values(), measured), *cells])
    return _table(["trained on", "by", "seeds", *map(_short, mnists)], lines)


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
) -> str:
    """Show the models that have rows on full MNIST, at correlation 1 and a little below."""
    lines = []
    for model in models:
        names = [format_model_id(model, correlation) for correlation in (1, LOOSE)]
        cells = [_cell(ours[s.name], name, s.primary) for s in mnists for name in names]
        if set(cells) != {NONE}:
            lines.append([f"`{model}`", *cells])
    heads = [head for suite in mnists for head in (_short(suite), f"at {LOOSE}")]
    return _table(["model", *heads], lines)


def _cell(board: pd.DataFrame, model: str, key: str) -> str:
    """One score in percent with its interval."""
    rows = board[board["model"] == model][[key, f"{key}_low", f"{key}_high"]]
    return NONE if rows.empty else percent(*rows.iloc[0])


def _seeds(boards: Iterable[pd.DataFrame], model: str) -> str:
    """How many seeds a model has, one number if all boards agree."""
    counts = {int(n) for board in boards for n in board.loc[board["model"] == model, "seeds"]}
    return ", ".join(map(str, sorted(counts)))


def _short(suite: Suite) -> str:
    """Name of a suite of MNIST for the head of a column."""
    return suite.name.removesuffix("-mnist")


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Lay out a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
