from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from support import golden

from benchmarks.core.scores import accuracy, paired_difference, shape_bias, worst_group
from benchmarks.core.statistics import bootstrap, proportion, worst_group_interval

Seen = Callable[..., pd.DataFrame]
ACCURACY = accuracy("v", chance=0.1)
WORST = worst_group("v", chance=0.1)


@pytest.mark.parametrize(
    ("network", "n_shape", "n_texture"), [("resnet50", 162, 572), ("resnet101", 180, 509)]
)
def test_published_decisions_give_the_published_counts(
    network: str, n_shape: int, n_texture: int
) -> None:
    estimate = shape_bias("cue-conflict").compute(golden(network))
    assert estimate.n == n_shape + n_texture
    assert estimate.value == n_shape / estimate.n


def test_shape_bias_of_resnet50_is_2207_with_an_interval_of_three_points() -> None:
    estimate = shape_bias("cue-conflict").compute(golden("resnet50"))
    assert round(100 * estimate.value, 2) == 22.07
    assert estimate.high - estimate.low == pytest.approx(0.06, abs=0.003)
    assert estimate.low < estimate.value < estimate.high


def test_accuracy_counts_the_images_of_its_variant_only(seen: Seen) -> None:
    table = pd.concat(
        [
            seen("a", shape=[0, 1, 2, 3], prediction=[0, 1, 2, 0]),
            seen("b", shape=[0, 1], prediction=[1, 0]),
        ]
    )
    assert accuracy("a", chance=0.25).compute(table)[::3] == (0.75, 4)


def test_accuracy_of_texture_reads_the_texture_label_and_lower_is_better(seen: Seen) -> None:
    table = seen(shape=[0, 0], texture=[1, 2], prediction=[1, 0])
    score = accuracy("v", chance=0.1, metric="texture_accuracy", factor="texture")
    assert score.compute(table).value == 0.5
    assert not score.higher_is_better
    assert score.key == "v_texture_accuracy"


def test_a_missing_variant_is_an_error_that_names_those_present(seen: Seen) -> None:
    table = seen("original", shape=[0], prediction=[0])
    with pytest.raises(ValueError, match="variant 'mixed_rand', only for: original"):
        accuracy("mixed_rand", chance=0.1).compute(table)


def test_unknown_labels_are_not_counted_as_mistakes(seen: Seen) -> None:
    with pytest.raises(ValueError, match="shape is unknown"):
        accuracy("v", chance=0.1).compute(seen(shape=[0, -1], prediction=[0, 0]))


@pytest.mark.parametrize(
    ("n_hits", "n", "low", "high"),
    [
        (50, 100, 0.4038, 0.5962),  # Wilson
        (10, 10, 0.6915, 1.0),  # Clopper-Pearson: 0.025 ** (1 / 10)
        (0, 10, 0.0, 0.3085),
        (104, 7500, 0.0115, 0.0168),
    ],
)
def test_an_accuracy_has_the_textbook_interval(
    n_hits: int, n: int, low: float, high: float
) -> None:
    estimate = proportion(np.arange(n) < n_hits)
    assert estimate[1:3] == pytest.approx((low, high), abs=1e-4)


def test_an_accuracy_over_few_objects_is_as_uncertain_as_they_are_few(seen: Seen) -> None:
    columns = {"shape": [0] * 400, "prediction": [0, 1] * 200}
    alone = ACCURACY.compute(seen(**columns))
    alike = ACCURACY.compute(seen(**columns, id=np.tile(np.arange(4), 100)))
    assert alone[::3] == alike[::3] == (0.5, 400)
    assert alike.high - alike.low > 5 * (alone.high - alone.low)


def test_no_images_give_nan_and_not_zero() -> None:
    assert math.isnan(proportion(np.array([], dtype=bool)).value)


def test_paired_difference_is_the_difference_of_the_accuracies(seen: Seen) -> None:
    table = pd.concat(
        [
            seen("same", shape=[0] * 10, prediction=[0] * 9 + [1]),
            seen("rand", shape=[0] * 10, prediction=[0] * 6 + [1] * 4),
        ]
    )
    score = paired_difference("same", "rand", metric="bg_gap")
    estimate = score.compute(table)
    assert score.key == "same-rand_bg_gap"
    assert estimate.value == pytest.approx(0.3)
    assert 0 <= estimate.low < 0.3 < estimate.high < 0.61
    assert estimate.n == 20


def test_pairing_shortens_the_interval_of_variants_that_fail_together(seen: Seen) -> None:
    right = np.arange(200) < 100
    same = seen("same", shape=[0] * 200, prediction=np.where(right, 0, 1))
    together = seen("rand", shape=[0] * 200, prediction=np.where(np.arange(200) < 80, 0, 1))
    apart = seen("rand", shape=[0] * 200, prediction=np.where(np.arange(200) >= 120, 0, 1))
    gap = paired_difference("same", "rand", metric="gap")
    paired, unpaired = (gap.compute(pd.concat([same, other])) for other in (together, apart))
    assert paired.value == unpaired.value
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_paired_difference_leaves_out_ids_of_one_variant_alone(seen: Seen) -> None:
    table = pd.concat(
        [
            seen("same", id=[1, 2, 3], shape=[0, 0, 0], prediction=[0, 0, 1]),
            seen("rand", id=[1, 2, 9], shape=[0, 0, 0], prediction=[0, 1, 1]),
        ]
    )
    assert paired_difference("same", "rand", metric="gap").compute(table)[::3] == (0.5, 4)


def test_variants_without_a_common_id_cannot_be_paired(seen: Seen) -> None:
    table = pd.concat(
        [
            seen("same", id=[1], shape=[0], prediction=[0]),
            seen("rand", id=[2], shape=[0], prediction=[0]),
        ]
    )
    with pytest.raises(ValueError, match="share no id"):
        paired_difference("same", "rand", metric="gap").compute(table)


def test_shape_bias_ignores_images_without_conflict(seen: Seen) -> None:
    table = seen(shape=[0, 1, 1], texture=[0, 2, 2], prediction=[0, 2, 1])
    assert shape_bias("v").compute(table)[::3] == (0.5, 2)


def test_shape_bias_is_nan_where_nothing_was_decided(seen: Seen) -> None:
    estimate = shape_bias("v").compute(seen(shape=[0, 1], texture=[1, 0], prediction=[2, 2]))
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)
    assert estimate.n == 0


def test_the_bootstrap_resamples_clusters_and_not_images(seen: Seen) -> None:
    columns = {"shape": [0] * 400, "texture": [1] * 400, "prediction": [0, 1] * 200}
    alone = shape_bias("v").compute(seen(**columns))
    pairs = shape_bias("v").compute(seen(**columns, id=np.tile(np.arange(4), 100)))
    assert alone.value == pairs.value == 0.5
    assert pairs.high - pairs.low > 5 * (alone.high - alone.low)


def test_the_bootstrap_agrees_with_wilson_on_an_accuracy() -> None:
    hits = np.arange(1000) < 300
    clusters = np.stack([hits, np.ones(1000)], axis=1).astype(int)
    ours = bootstrap(clusters)
    assert ours[:3] == pytest.approx(proportion(hits)[:3], abs=0.002)


def test_the_same_predictions_give_the_same_interval_in_any_order(seen: Seen) -> None:
    table = seen(shape=[0, 1, 2] * 20, texture=[1, 2, 0] * 20, prediction=[0, 1, 0] * 20)
    shuffled = table.sample(frac=1, random_state=1)
    assert shape_bias("v").compute(table) == shape_bias("v").compute(shuffled)


@pytest.mark.parametrize("factor", ["texture", "background"])
def test_the_worst_group_is_found_among_textures_and_among_backgrounds(
    factor: str, seen: Seen
) -> None:
    labels = {"texture": [0] * 20, "background": [1] * 20} | {factor: [2] * 4 + [3] * 16}
    table = seen(shape=[0] * 20, prediction=[0, 9, 9, 9] + [0] * 16, **labels)
    assert WORST.compute(table)[::3] == (0.25, 4)
    assert ACCURACY.compute(table).value == 0.85


def test_a_group_is_of_one_shape_and_not_of_one_texture_alone(seen: Seen) -> None:
    table = seen(
        shape=[0] * 5 + [1] * 5, texture=[7] * 10, background=-1, prediction=[0] * 5 + [0] * 5
    )
    assert WORST.compute(table)[::3] == (0.0, 5)


def test_a_model_that_follows_texture_has_a_group_at_zero_and_a_perfect_one_none(
    seen: Seen,
) -> None:
    rng = np.random.default_rng(0)
    shape, texture, background = rng.integers(3, size=(3, 600))
    labels = {"shape": shape, "texture": texture, "background": background}
    assert WORST.compute(seen(**labels, prediction=texture)).value == 0
    perfect = WORST.compute(seen(**labels, prediction=shape))
    assert (perfect.value, perfect.high) == (1, 1)
    assert perfect.low < ACCURACY.compute(seen(**labels, prediction=shape)).low


def test_factors_that_are_unknown_make_no_groups(seen: Seen) -> None:
    table = seen(shape=[0, 0, 1], texture=[1, 1, 1], background=[-1, -1, -1], prediction=[0, 1, 1])
    assert WORST.compute(table)[::3] == (0.5, 2)
    with pytest.raises(ValueError, match="knows neither textures nor backgrounds"):
        WORST.compute(table.assign(texture=-1))


def test_images_of_one_object_cannot_be_counted_as_independent(seen: Seen) -> None:
    table = seen(shape=[0, 0], texture=[0, 0], background=-1, prediction=[0, 0], id=[5, 5])
    with pytest.raises(ValueError, match="shows an object twice"):
        WORST.compute(table)


def test_the_worst_of_one_group_has_the_exact_interval_of_its_share() -> None:
    assert worst_group_interval(np.array([[3, 10]]))[1:3] == pytest.approx(
        (0.0667, 0.6525), abs=1e-4
    )
    assert worst_group_interval(np.array([[0, 10]]))[:3] == pytest.approx((0, 0, 0.3085), abs=1e-4)
    assert worst_group_interval(np.array([[10, 10]]))[:3] == pytest.approx((1, 0.6915, 1), abs=1e-4)


def test_more_groups_lengthen_the_worst_ones_interval_upwards_only() -> None:
    alone, among_others = (
        worst_group_interval(np.array([[30, 100], *[[100, 100]] * n])) for n in (0, 99)
    )
    assert alone[:2] == among_others[:2]
    assert alone.high < among_others.high
