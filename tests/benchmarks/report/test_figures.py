"""The sweep over correlations, drawn from made-up rows."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support import TINY_SHA256, FirstRow, run_model, tiny_images, tiny_suite

from benchmarks.core.environment import environment
from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED, Suite, format_model_id
from benchmarks.records.leaderboard import leaderboard, leaderboards
from benchmarks.records.runs import Row, append, read_runs
from benchmarks.report.figures import correlation_sweep, correlation_sweep_rows
from benchmarks.report.page import write_report
from benchmarks.report.tables import primary_scores_table

SUITE = tiny_suite()
SWEEP = (1.0, 0.99, 0.9)


def row(model: str, value: float, *, source: str = "embedded", seed: int = 0) -> Row:
    return Row(
        suite="tiny",
        protocol="1",
        source=source,
        data_sha256=TINY_SHA256,
        model=model,
        weights_sha256="w",
        seed=seed,
        variant="hard",
        metric="accuracy",
        value=value,
        low=value - 0.1,
        high=value + 0.1,
        n=40,
        images_per_second=1.0,
        **environment("cpu"),
    )


def board(results: Path) -> pd.DataFrame:
    return leaderboard(read_runs(results), SUITE, results)


def made_up(results: Path, *more: Row) -> pd.DataFrame:
    rows = [row(format_model_id("erm", rho), 0.4 + 2 * (1 - rho)) for rho in SWEEP]
    rows += [row("erm@0.99/shape", 0.1), row("oracle", 0.9), *more]
    append(rows, results)
    return board(results)


def titles(svg: str) -> list[str]:
    return re.findall(r">(\w+, [\w+]+)</text>", svg)


def test_models_are_found_with_all_their_correlations_in_order(tmp_path: Path) -> None:
    rows = correlation_sweep_rows(made_up(tmp_path))
    assert rows["plain"].tolist() == ["erm"] * 3
    assert rows["correlation"].tolist() == list(SWEEP)
    assert rows["hard_accuracy"].tolist() == pytest.approx([0.4, 0.42, 0.6])


def test_two_points_are_a_sweep_only_where_no_model_has_three(tmp_path: Path) -> None:
    two = [row(format_model_id("cgn", rho), 0.9) for rho in SWEEP[:2]]
    append(two, tmp_path)
    assert set(correlation_sweep_rows(board(tmp_path))["plain"]) == {"cgn"}
    assert set(correlation_sweep_rows(made_up(tmp_path))["plain"]) == {"erm"}
    append([row("cgn", 0.9, source="official"), row("cgn@0.9", 0.9, source="official")], tmp_path)
    rows = correlation_sweep_rows(board(tmp_path))
    assert set(zip(rows["source"], rows["plain"], strict=True)) == {
        ("embedded", "erm"),
        ("official", "cgn"),
    }


def test_nothing_is_swept_without_a_row_below_one(tmp_path: Path) -> None:
    append([row("erm", 0.4), row("cgn", 0.9)], tmp_path)
    assert correlation_sweep_rows(board(tmp_path)).empty
    assert correlation_sweep_rows(board(tmp_path / "none")).empty
    with pytest.raises(ValueError, match="no model was trained at a correlation below 1"):
        correlation_sweep([(SUITE, board(tmp_path))], ["erm"])


def test_a_sweep_has_a_panel_a_suite_and_source_and_a_tick_a_correlation(tmp_path: Path) -> None:
    official = [row(format_model_id("erm", rho), 0.5, source="official") for rho in SWEEP]
    made_up(tmp_path, *official)
    boards = leaderboards(tmp_path, [SUITE, tiny_suite("other")])
    drawn = correlation_sweep(boards, ["erm", "cgn"]).light
    assert titles(drawn) == ["tiny, embedded", "tiny, official"]
    for text in ("0", "1", "10", "erm", "chance"):
        assert f">{text}</text>" in drawn


def test_a_sweep_moves_with_its_rows_and_is_drawn_for_light_and_for_dark(tmp_path: Path) -> None:
    rows = made_up(tmp_path)
    first = correlation_sweep([(SUITE, rows)], ["erm"])
    assert first == correlation_sweep([(SUITE, rows)], ["erm"])
    assert "#e8e8e8" in first.dark
    assert "#e8e8e8" not in first.light
    key = SUITE.primary
    moved = rows.assign(**{key: rows[key].where(rows["model"] != "erm@0.9", 0.7)})
    assert first != correlation_sweep([(SUITE, moved)], ["erm"])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    predictions = evaluate(FirstRow(), SUITE.variants(EMBEDDED))[0]
    for model in ("erm", "erm@0.99", "cgn"):
        run_model(tmp_path, predictions, model=model)
    return tmp_path


def page(results: Path, suite: Suite) -> str:
    images = {"easy": tiny_images(1), "hard": tiny_images(2)}
    write_report(results / "report.html", results, [suite], {"tiny": images}, {})
    return (results / "report.html").read_text()


def test_the_report_shows_a_sweep_and_keeps_its_models_out_of_other_figures(results: Path) -> None:
    suite = replace(SUITE, standard="easy_accuracy")
    shown = page(results, suite)
    alts = re.findall(r'alt="(The less closely|Robust against standard)([^"]*)"', shown)
    assert [title for title, _ in alts] == ["Robust against standard", "The less closely"]
    assert ["erm@0.99" in text for _, text in alts] == [False, True]
    assert 'data-model="erm@0.99"' in shown  # in the leaderboard


def test_the_readmes_table_is_of_models_that_every_suite_may_have(results: Path) -> None:
    table = primary_scores_table([(SUITE, board(results))], "embedded").to_markdown()
    assert "| erm |" in table
    assert "@" not in table
