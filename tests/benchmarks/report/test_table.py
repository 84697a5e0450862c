"""One table, and what its writers make of it."""

from __future__ import annotations

import json
import math

import pytest
from rich.console import Console

from benchmarks.report.table import Cell, Table, as_cell, fraction, interval, to_json

TABLE = Table(["model", "accuracy", "n"], "Scores", "percent")
TABLE.add("erm", interval(0.5, 0.404, 0.596), 100, is_bold=True)
TABLE.add("a|[red]\x1b[2J", interval(math.nan, math.nan, math.nan), None)


def test_a_terminal_gets_neither_markup_nor_orders_from_a_cell() -> None:
    console = Console(width=100, force_terminal=True)
    with console.capture() as captured:
        console.print(TABLE)
    assert "a|[red]\\x1b[2J" in captured.get()
    assert "\x1b[2J" not in captured.get()


@pytest.mark.parametrize("width", [60, 80])
def test_no_line_of_plain_text_is_wider_than_was_asked_for(width: int) -> None:
    text = Table(["a"] * 3, "t").add("word " * 20, "x" * 90, 3).to_text(width)
    assert max(map(len, text.splitlines())) <= max(width, 80)
    assert text.count("x") == 90


def test_markdown_has_a_line_a_row_and_its_cells_hold_no_bars() -> None:
    lines = TABLE.to_markdown().splitlines()
    assert lines[:3] == [
        "| model | accuracy | n |",
        "| --- | --- | --- |",
        "| erm | 50.0 [40.4, 59.6] | 100 |",
    ]
    assert lines[3].startswith(r"| a\|[red]")
    assert lines[3].endswith("| undefined | - |")


def test_programs_get_plain_numbers_and_null_for_what_is_undefined() -> None:
    (table,) = json.loads(to_json([TABLE]))
    assert table["title"] == "Scores"
    first, second = table["rows"]
    assert first == {
        "model": "erm",
        "accuracy": {"value": 0.5, "low": 0.404, "high": 0.596},
        "n": 100,
    }
    assert second["accuracy"] == {"value": None, "low": None, "high": None}
    assert second["n"] is None


def test_what_is_undefined_sorts_last_in_a_page() -> None:
    assert fraction(math.nan).sort_key == interval(math.nan, 0, 0).sort_key == ""
    assert as_cell(None).sort_key == ""
    assert interval(0.25, 0.0, 1.0).sort_key == "0.250000"


def test_columns_are_chosen_in_the_order_that_is_asked_for() -> None:
    table = Table(["a", "b", "c"]).add(1, 2, 3)
    table.footer = [Cell("x", 4), Cell("y", 5), Cell("z", 6)]
    assert table.select(["c", "a"]).records() == [{"c": 3, "a": 1}, {"c": 6, "a": 4}]
