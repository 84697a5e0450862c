"""Names in committed tables: a spreadsheet computes none, and every row stays on its line."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import FirstRow, run_model, tiny_suite

from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED
from benchmarks.records.check import check
from benchmarks.records.csv_cells import csv_text, guarded, unguarded
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.runs import Row, append, read_runs

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", '=A1,"b"', "-"]
ODD = ["'", "'=1+1", "'é\\n", "a\nb", "a\r\nb", "a\u2028b", "a\x00b", " ", "null", 'a"b,c']


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries."""
    return [{str(name): cell for name, cell in row.items()} for row in table.to_dict("records")]


@pytest.mark.parametrize("name", FORMULAS)
def test_no_text_cell_is_a_formula(name: str) -> None:
    assert str(guarded(name))[0] not in "=+-@\t\r"


@pytest.mark.parametrize("name", [*FORMULAS, *ODD, "cgn@0.99", "file:é,b.pt#arch=timm:a"])
def test_every_name_comes_back_from_its_cell(name: str) -> None:
    assert unguarded(str(guarded(name))) == name
    assert str(guarded(name)).isprintable()


def test_half_a_character_is_written_as_its_escape() -> None:
    assert unguarded(guarded("a\udcffb")) == r"a\udcffb"


def test_numbers_and_usual_names_are_written_as_they_are() -> None:
    table = pd.DataFrame(
        {"model": ["cgn", "a-b", "狗"], "gap": [-0.25, float("nan"), 1e-9], "n": -1}
    )
    assert csv_text(table) == table.to_csv(index=False, lineterminator="\n")


@pytest.mark.parametrize("name", [*FORMULAS, *ODD])
def test_rows_of_any_name_are_read_as_they_were_written_and_hold(name: str, tmp_path: Path) -> None:
    suite = tiny_suite()
    predictions = evaluate(FirstRow(), suite.variants(EMBEDDED))[0]
    for seed in (0, 1):
        run_model(tmp_path, predictions, model=name, seed=seed)
    runs = read_runs(tmp_path)
    assert set(runs["model"]) == {name}
    assert append([Row(**cells) for cells in records(runs)], tmp_path) == 0
    assert leaderboard(runs, suite, tmp_path)["model"].tolist() == [name]
    hashes = {"tiny": runs["data_sha256"].iloc[0]}
    assert check(tmp_path, {"tiny": suite}, hashes) == []
    for path in tmp_path.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        texts = [cell for cell in cells if not cell.lstrip("+-").replace(".", "").isdecimal()]
        assert not [cell for cell in texts if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert len(path.read_text().splitlines()) == len(pd.read_csv(path)) + 1


def test_committed_tables_keep_their_bytes(committed_results: Path) -> None:
    paths = sorted(committed_results.glob("*.csv"))
    assert len(paths) > 20
    for path in paths:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        assert not table.map(lambda cell: cell.startswith("'")).any(axis=None), path.name
    lines = (committed_results / "runs.csv").read_text(encoding="utf-8").splitlines()
    runs = read_runs(committed_results)[lines[0].split(",")]  # without what later versions add
    newest = csv_text(runs.tail(50)).splitlines()
    assert newest == [lines[0], *lines[-50:]]
