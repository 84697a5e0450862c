"""Rows are appended at a cost that does not grow, and read as they were written."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import ROW

from benchmarks.records.runs import COLUMNS, append, newest, read_runs, repeated

INDEX = ".runs.index"


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, seed=1, value=1 / 3, low=np.nan, model='a,"b"')]
    assert append(rows, tmp_path) == 2
    runs = read_runs(tmp_path)
    assert list(runs.columns) == COLUMNS
    assert runs["value"].tolist() == [0.5, 1 / 3]
    assert np.isnan(runs["low"][1])
    assert runs["model"].tolist() == ["erm", 'a,"b"']
    assert runs["protocol"].tolist() == ["1", "1"]


def test_appending_the_same_run_again_adds_nothing(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, metric="gap", value=np.nan, low=np.nan, high=np.nan)]
    append(rows, tmp_path)
    before = (tmp_path / "runs.csv").read_bytes()
    later = [replace(row, time="2030-01-01", images_per_second=1.0) for row in rows]
    assert append(later, tmp_path) == 0
    assert (tmp_path / "runs.csv").read_bytes() == before


@pytest.mark.parametrize("change", [{"value": 0.51}, {"weights_sha256": "w1"}, {"n": 41}])
def test_a_run_that_came_out_otherwise_is_a_new_row(
    tmp_path: Path, change: dict[str, object]
) -> None:
    append([ROW], tmp_path)
    assert append([replace(ROW, **change)], tmp_path) == 1  # type: ignore[arg-type]


def test_old_rows_stay_byte_for_byte(tmp_path: Path) -> None:
    append([ROW], tmp_path)
    before = (tmp_path / "runs.csv").read_bytes()
    append([replace(ROW, seed=1)], tmp_path)
    assert (tmp_path / "runs.csv").read_bytes().startswith(before)
    assert not list(tmp_path.glob("*.part"))


def test_concurrent_appends_lose_no_row(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: append([replace(ROW, seed=seed)], tmp_path), range(12)))
    assert sorted(read_runs(tmp_path)["seed"]) == list(range(12))


LATER = ["generator_seed", "selected_on"]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", ",".join(COLUMNS) + "\n1,2\n\x00"])
def test_a_foreign_runs_csv_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(ValueError, match="restore it from git"):
        append([ROW], tmp_path)
    assert (tmp_path / "runs.csv").read_text() == text


@pytest.mark.parametrize("n_later", [1, 2])
def test_a_file_of_before_the_last_columns_is_read_and_takes_new_rows(
    tmp_path: Path, n_later: int
) -> None:
    append([ROW], tmp_path)
    path = tmp_path / "runs.csv"
    header, row = path.read_text().splitlines()
    older = ",".join(COLUMNS[: len(COLUMNS) - n_later])
    path.write_text(f"{older}\n{row[:-n_later]}\n")
    assert read_runs(tmp_path)[LATER].values.tolist() == [["", ""]]
    append([replace(ROW, seed=1, generator_seed="4", selected_on="nothing")], tmp_path)
    assert read_runs(tmp_path)[LATER].values.tolist() == [["", ""], ["4", "nothing"]]
    assert path.read_text().splitlines()[:2] == [header, row]


@pytest.mark.parametrize("n_bytes", [1, 30, 150])
def test_half_a_row_of_a_killed_process_is_not_read_and_is_removed_by_the_next(
    tmp_path: Path, n_bytes: int
) -> None:
    append([ROW, replace(ROW, seed=1)], tmp_path)
    path = tmp_path / "runs.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[1][:n_bytes])
    assert len(read_runs(tmp_path)) == 2
    append([replace(ROW, seed=2)], tmp_path)
    assert path.read_bytes().startswith(whole)
    assert read_runs(tmp_path)["seed"].tolist() == [0, 1, 2]


def test_a_last_row_without_the_end_of_its_line_is_kept(tmp_path: Path) -> None:
    append([ROW], tmp_path)
    path = tmp_path / "runs.csv"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert len(read_runs(tmp_path)) == 1
    append([replace(ROW, seed=1)], tmp_path)
    assert read_runs(tmp_path)["seed"].tolist() == [0, 1]


def test_a_full_disk_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    append([ROW], tmp_path)
    before = (tmp_path / "runs.csv").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    many = [replace(ROW, seed=seed) for seed in range(1, 2_000)]
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match="cannot write"):
            append(many, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "runs.csv").read_bytes() == before
    assert append(many, tmp_path) == len(many)


@pytest.mark.parametrize("content", [None, b"", b"no database", b"SQLite format 3\0" * 300])
def test_rows_that_are_there_are_known_without_the_index_or_with_a_damaged_one(
    tmp_path: Path, content: bytes | None
) -> None:
    append([ROW], tmp_path)
    if content is None:
        (tmp_path / INDEX).unlink()
    else:
        (tmp_path / INDEX).write_bytes(content)
    assert append([ROW], tmp_path) == 0
    assert append([replace(ROW, seed=1)], tmp_path) == 1


def test_rows_that_another_program_added_are_known(tmp_path: Path) -> None:
    append([ROW], tmp_path)
    path = tmp_path / "runs.csv"
    header, row = path.read_text().splitlines()
    path.write_text(f"{header}\n{row}\n{row.replace('erm', 'irm')}\n")
    assert append([replace(ROW, model="irm")], tmp_path) == 0
    assert append([ROW], tmp_path) == 0


def test_a_row_that_returns_to_an_older_value_is_added(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, value=0.7), ROW, ROW]
    assert [append([row], tmp_path) for row in rows] == [1, 1, 1, 0]
    assert newest(read_runs(tmp_path))["value"].tolist() == [0.5]


def test_a_row_that_repeats_the_one_before_it_is_found(tmp_path: Path) -> None:
    append([ROW, replace(ROW, seed=1, low=np.nan)], tmp_path)
    path = tmp_path / "runs.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[2] + "\n")
    assert repeated(read_runs(tmp_path))["seed"].tolist() == [1]


def test_the_rows_of_one_suite_are_read_without_the_others(tmp_path: Path) -> None:
    append([ROW, replace(ROW, suite="other"), replace(ROW, suite="=odd,name")], tmp_path)
    assert read_runs(tmp_path, ["=odd,name", "tiny"])["suite"].tolist() == ["tiny", "=odd,name"]
    assert read_runs(tmp_path, ["none"]).empty


def test_a_file_of_no_rows_gives_a_table_of_none(tmp_path: Path) -> None:
    append([], tmp_path)
    assert (tmp_path / "runs.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert list(read_runs(tmp_path).columns) == COLUMNS
    assert read_runs(tmp_path).empty
