"""One model of a table, and its writers: for the terminal, Markdown, LaTeX, HTML, and programs.

The writer for HTML is the macro of `table.html`, for which `Cell.sort_key` and `TableRow.key` are.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import pandas as pd
import rich.table
from rich.console import Console
from rich.text import Text

from cgn.io.text import printable

NONE = "-"


class Cell(NamedTuple):
    """What a table says in one place.

    Attributes:
        text: For people.
        value: For programs: a text, a number, None, or numbers by name.
    """

    text: str
    value: Any

    @property
    def sort_key(self) -> str:
        """What sorts a column of an HTML table; empty comes last."""
        value = self.value.get("value") if isinstance(self.value, Mapping) else self.value
        if value is None or value != value:
            return ""
        return f"{value:.6f}" if isinstance(value, float) else str(value)


class TableRow(NamedTuple):
    """Cells in the order of the columns.

    Attributes:
        cells: One a column.
        is_bold: Whether it stands out.
        key: Name of the model that it is about, by which a page filters.
    """

    cells: Sequence[Cell]
    is_bold: bool = False
    key: str = ""


@dataclass
class Table:
    """Rows under named columns.

    Attributes:
        columns: Names of the columns.
        title: Stands above.
        caption: What the numbers are.
        rows: What it says.
        footer: A last row of other kind; empty for none.

    Example:
        >>> table = Table(["model", "accuracy"]).add("erm", interval(0.5, 0.4, 0.6))
        >>> print(table.to_markdown())
        | model | accuracy |
        | --- | --- |
        | erm | 50.0 [40.0, 60.0] |
        >>> table.records()
        [{'model': 'erm', 'accuracy': {'value': 0.5, 'low': 0.4, 'high': 0.6}}]
    """

    columns: Sequence[str]
    title: str = ""
    caption: str = ""
    rows: list[TableRow] = field(default_factory=list)
    footer: Sequence[Cell] = ()

    def add(self, *cells: object, is_bold: bool = False, key: str = "") -> Self:
        """Add a row; what is no `Cell` is shown as text, and None and "" as a dash."""
        self.rows.append(TableRow([as_cell(cell) for cell in cells], is_bold, key))
        return self

    def select(self, columns: Sequence[str]) -> Table:
        """Return a table of some columns, in their order."""
        places = [list(self.columns).index(name) for name in columns]
        rows = [row._replace(cells=[row.cells[place] for place in places]) for row in self.rows]
        footer = [self.footer[place] for place in places if self.footer]
        return Table(columns, self.title, self.caption, rows, footer)

    def __rich__(self) -> rich.table.Table:
        """Lay it out for a console; no cell is taken for markup or orders to the terminal."""
        names = (rich.table.Column(_shown(name), overflow="fold") for name in self.columns)
        titles = {"title": _shown(self.title), "caption": _shown(self.caption)}
        table = rich.table.Table(*names, **titles, min_width=80)  # type: ignore[arg-type]
        for row in self._all_rows():
            style = "bold" if row.is_bold else None
            table.add_row(*(_shown(cell.text) for cell in row.cells), style=style)
        return table

    def to_text(self, width: int = 80) -> str:
        """Lay it out as plain text of so many columns at most."""
        console = Console(file=io.StringIO(), width=width, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()

    def to_markdown(self) -> str:
        """Write it in Markdown, without title and caption."""
        cells = [[cell.text.replace("|", r"\|") for cell in row.cells] for row in self._all_rows()]
        lines = [self.columns, ["---"] * len(self.columns), *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_latex(self) -> str:
        r"""Write it in LaTeX, as a table with title and caption, for the package booktabs.

        Example:
            >>> print(Table(["model", "share"], "Shares").add("a_b", "5 %").to_latex())
            \begin{table}
            \caption{Shares}
            \begin{tabular}{ll}
            \toprule
            model & share \\
            \midrule
            a\_b & 5 \% \\
            \bottomrule
            \end{tabular}
            \end{table}
        """
        about = " ".join(filter(None, (self.title, self.caption)))
        body = [
            [rf"\textbf{{{text}}}" if row.is_bold and text else text for text in cells]
            for row in self.rows
            for cells in [[_latex(cell.text) for cell in row.cells]]
        ]
        foot = [r"\midrule", _latex_line(_latex(cell.text) for cell in self.footer)]
        lines = [
            r"\begin{table}",
            *([rf"\caption{{{_latex(about)}}}"] if about else []),
            rf"\begin{{tabular}}{{{'l' * len(self.columns)}}}",
            r"\toprule",
            _latex_line(_latex(name) for name in self.columns),
            r"\midrule",
            *map(_latex_line, body),
            *(foot if self.footer else []),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines)

    def records(self) -> list[dict[str, Any]]:
        """Return its rows as values by column, plain numbers among them; NaN is None."""
        return [
            {name: _plain(cell.value) for name, cell in zip(self.columns, row.cells, strict=True)}
            for row in self._all_rows()
        ]

    def _all_rows(self) -> list[TableRow]:
        """The rows with the footer."""
        return [*self.rows, TableRow(self.footer)] if self.footer else self.rows


def to_json(tables: Iterable[Table]) -> str:
    """Write tables as JSON: a list of objects with title and rows.

    Example:
        >>> to_json([Table(["n"], title="Images").add(3)])
        '[{"title": "Images", "rows": [{"n": 3}]}]'
    """
    return json.dumps([{"title": table.title, "rows": table.records()} for table in tables])


def as_cell(value: object) -> Cell:
    """Return a cell that shows a value as it is.

    Example:
        >>> as_cell("erm").text, as_cell(None).text, as_cell(3).value
        ('erm', '-', 3)
    """
    if isinstance(value, Cell):
        return value
    plain = None if pd.isna(value) else value  # type: ignore[call-overload]
    return Cell(NONE if plain in (None, "") else str(plain), plain)


def interval(value: float, low: float, high: float, undefined: str = "undefined") -> Cell:
    """Return a cell of a fraction with its interval, shown in percent.

    Args:
        value: NaN if it is undefined.
        low: Lower end.
        high: Upper end.
        undefined: Shown in place of NaN.
    """
    text = undefined if pd.isna(value) else percent(value, low, high)
    return Cell(text, {"value": float(value), "low": float(low), "high": float(high)})


def fraction(value: float) -> Cell:
    """Return a cell of a fraction, shown in percent without an interval; NaN as a dash."""
    return Cell(NONE if pd.isna(value) else f"{100 * value:.1f}", float(value))


def percent(value: float, low: float, high: float) -> str:
    """Write a score for people: in percent, with its 95 % interval.

    Example:
        >>> percent(0.5, 0.404, 0.596)
        '50.0 [40.4, 59.6]'
    """
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


_LATEX = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\N{MINUS SIGN}": "$-$",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "…": r"\dots{}",
    "\n": " ",
}


def _latex(text: str) -> str:
    """Write text so that LaTeX shows it as it is; a line break of HTML is a space."""
    plain = printable(text.replace("<br>", " ").replace("\n", " "))
    return "".join(_LATEX.get(character, character) for character in plain)


def _latex_line(cells: Iterable[str]) -> str:
    """A row of a table; a bracket at its start would be taken for an option of the row above."""
    line = " & ".join(cells)
    return f"{'{}' if line.startswith('[') else ''}{line} \\\\"


def _shown(text: str) -> Text:
    return Text("\n".join(map(printable, text.split("\n"))))


def _plain(value: Any) -> Any:
    """A value that JSON knows."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    value = value.item() if hasattr(value, "item") else value  # of NumPy
    return None if isinstance(value, float) and not math.isfinite(value) else value
