"""Leaderboards as tables in LaTeX and Markdown, one file a suite and data source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd

from benchmarks.core.suite import Suite
from benchmarks.records.leaderboard import IMAGES
from benchmarks.report.table import Table
from benchmarks.report.tables import leaderboard_table
from cgn.io.writing import write_text


def write_tables(
    boards: Iterable[tuple[Suite, pd.DataFrame]], form: Literal["latex", "markdown"], out: Path
) -> list[Path]:
    """Write leaderboards as `<suite>-<source>.tex` or `.md`.

    Args:
        boards: Suites with their leaderboards.
        form: LaTeX for the package booktabs, or Markdown with what the numbers are below.
        out: The folder.

    Returns:
        The files.
    """
    files = []
    for suite, board in boards:
        groups = [(str(key[1]), rows) for key, rows in board.groupby(IMAGES)]
        for number, (source, rows) in enumerate(groups):
            table = replace(leaderboard_table(suite, rows), title=f"{suite.name}: {suite.question}")
            again = [name for name, _ in groups[:number]].count(source)
            stem = f"{suite.name}-{source}{f'-{again + 1}' if again else ''}"
            files.append(out / f"{stem}{'.tex' if form == 'latex' else '.md'}")
            write_text(files[-1], table.to_latex() + "\n" if form == "latex" else _markdown(table))
    return files


def _markdown(table: Table) -> str:
    """A table with its title above and its caption below."""
    return f"**{table.title}**\n\n{table.to_markdown()}\n\n{table.caption}\n"
