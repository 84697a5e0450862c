from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.core.environment import environment
from benchmarks.generator_track import (
    FILE,
    TrackRow,
    append_track,
    differences_to_paste,
    newest_of_track,
    paired_difference,
    read_track,
)
from benchmarks.report.generators import comparisons, differences_figure, track_tables

ACCURACY = "in9 mixed_rand_accuracy"


def row(
    generator: str,
    seed: int,
    value: float,
    *,
    measure: str = ACCURACY,
    generator_seed: str = "",
    data: str = "d0",
) -> TrackRow:
    return TrackRow(
        world="openmoji-9",
        protocol="1",
        source="embedded",
        data_sha256=data,
        generator=generator,
        seed=seed,
        generator_seed=generator_seed,
        measure=measure,
        value=value,
        n=450,
        **environment("cpu"),
    )


def three(generator: str, values: tuple[float, float, float], same: bool = False) -> list[TrackRow]:
    return [
        row(generator, seed, value, generator_seed="0" if same else str(seed))
        for seed, value in enumerate(values)
    ]


def test_a_paired_difference_is_that_of_students_test() -> None:
    values = np.array([0.01, 0.02, 0.06])
    from scipy.stats import ttest_1samp

    expected = ttest_1samp(values, 0)
    found = paired_difference(values)
    low, high = expected.confidence_interval()
    assert found == pytest.approx((0.03, low, high, expected.pvalue, 3))


def test_differences_that_are_all_alike_are_certain_and_none_at_all_are_chance() -> None:
    assert paired_difference(np.array([0.25, 0.25, 0.25])).p_value == 0
    assert paired_difference(np.zeros(3)).p_value == 1


def test_two_generators_have_a_difference_but_no_interval() -> None:
    found = paired_difference(np.array([0.1, 0.2]))
    assert found.value == pytest.approx(0.15)
    assert np.isnan([found.low, found.high, found.p_value]).all()


def test_generators_are_paired_with_paste_by_seed(tmp_path: Path) -> None:
    append_track(three("paste", (0.5, 0.6, 0.7)) + three("cgn", (0.55, 0.65, 0.75)), tmp_path)
    found = differences_to_paste(newest_of_track(read_track(tmp_path)))
    assert found["cgn"][:3] == pytest.approx((0.05,) * 3)
    assert found["cgn"].n_generators == 3


def test_seeds_that_share_weights_count_as_one_generator(tmp_path: Path) -> None:
    released = three("cgn-released", (0.5, 0.5, 0.5), same=True)
    append_track(three("paste", (0.5, 0.6, 0.7)) + released, tmp_path)
    found = differences_to_paste(newest_of_track(read_track(tmp_path)))["cgn-released"]
    assert found.n_generators == 1
    assert found.value == pytest.approx(-0.1)
    assert np.isnan(found.p_value)


def test_the_same_rows_twice_are_kept_once_and_newer_ones_count(tmp_path: Path) -> None:
    for value in (0.5, 0.5, 0.6, 0.5):
        append_track([row("cgn", 0, value)], tmp_path)
    rows = read_track(tmp_path)
    assert list(rows["value"]) == [0.5, 0.6, 0.5]
    assert list(newest_of_track(rows)["value"]) == [0.5]


def test_rows_on_older_images_leave_the_tables(tmp_path: Path) -> None:
    append_track([row("paste", 0, 0.4, data="old"), row("cgn", 0, 0.6, data="new")], tmp_path)
    assert list(newest_of_track(read_track(tmp_path))["generator"]) == ["cgn"]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has other columns"):
        read_track(tmp_path)


def test_the_table_shows_the_difference_to_paste_with_its_interval(tmp_path: Path) -> None:
    overlap = [row("paste", 0, 0.9, measure="abducted_mask_iou")]
    rows = three("paste", (0.5, 0.6, 0.7)) + three("cgn", (0.56, 0.64, 0.75)) + overlap
    append_track(rows, tmp_path)
    (table,) = track_tables(read_track(tmp_path))
    cells = {row["measure"]: row for row in table.records()}
    assert cells["mask overlap"] == {"measure": "mask overlap", "paste": 0.9, "cgn": None}
    assert cells["generators"]["cgn"] == 3
    assert cells["minus paste"]["paste"] is None
    difference = cells["minus paste"]["cgn"]
    assert difference["value"] == pytest.approx(0.05)
    assert difference["low"] < 0.05 < difference["high"]
    assert 0 < cells["p"]["cgn"] < 0.05


def test_the_figure_has_a_panel_a_suite_and_a_line_a_generator(tmp_path: Path) -> None:
    append_track(three("paste", (0.5, 0.6, 0.7)) + three("cgn", (0.56, 0.64, 0.75)), tmp_path)
    compared = comparisons(read_track(tmp_path))
    assert list(compared) == [f"{ACCURACY}, embedded data"]
    drawn = differences_figure(compared).light
    assert ACCURACY in drawn
    assert ">cgn<" in drawn
    assert comparisons(pd.DataFrame(columns=read_track(tmp_path).columns)) == {}
