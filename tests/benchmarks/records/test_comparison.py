from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from support import golden

from benchmarks.core.scores import accuracy, paired_difference, shape_bias, worst_group
from benchmarks.records.compare import Difference, compare, holm, verdict

Seen = Callable[..., pd.DataFrame]
ACCURACY = accuracy("v", chance=0.1)


def with_hits(seen: Seen, hits: np.ndarray) -> pd.DataFrame:
    return seen(shape=np.zeros(len(hits), dtype=int), prediction=np.where(hits, 0, 1))


def test_resnet101_beats_resnet50_in_shape_bias_by_four_points() -> None:
    found = compare(shape_bias("cue-conflict"), [golden("resnet101")], [golden("resnet50")])
    assert 100 * found.value == pytest.approx(4.05, abs=0.005)
    assert (100 * found.low, 100 * found.high) == pytest.approx((1.43, 6.66), abs=0.15)


def test_two_accuracies_on_the_same_images_get_mcnemars_exact_p_value(seen: Seen) -> None:
    hits = np.zeros((100, 2), dtype=bool)
    hits[:60] = True
    hits[60:75, 0] = True  # 15 images that only the first gets right
    hits[75:80, 1] = True  # 5 that only the second does
    found = compare(ACCURACY, *([with_hits(seen, each)] for each in hits.T))
    assert found[:3] == pytest.approx((0.75, 0.65, 0.10))
    assert found.p_value == pytest.approx(2 * binom.cdf(5, 20, 0.5))
    assert found.n == 100


def test_a_model_cannot_be_told_apart_from_itself(seen: Seen) -> None:
    table = with_hits(seen, np.arange(50) < 20)
    found = compare(ACCURACY, [table], [table])
    assert found[2:7] == (0, 0, 0, 1, 0)
    assert verdict(ACCURACY, "a", "b", found, 1.0) == "cannot be told apart"


def test_swapping_the_models_turns_the_sign(seen: Seen) -> None:
    one, other = (with_hits(seen, np.arange(200) % k == 0) for k in (2, 3))
    there, back = compare(ACCURACY, [one], [other]), compare(ACCURACY, [other], [one])
    assert there.value == -back.value
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.01)
    assert there.p_value == back.p_value


def test_images_that_are_hard_for_both_models_do_not_widen_the_interval(seen: Seen) -> None:
    first = np.arange(400) < 200
    together, apart = first.copy(), ~first
    together[180:200] = False
    apart[200:220] = False
    paired, unpaired = (
        compare(ACCURACY, [with_hits(seen, first)], [with_hits(seen, other)])
        for other in (together, apart)
    )
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_seeds_that_disagree_widen_the_interval(seen: Seen) -> None:
    def model(*n_hits: int) -> list[pd.DataFrame]:
        return [with_hits(seen, np.arange(300) < n) for n in n_hits]

    calm, wild = (
        compare(ACCURACY, model(*n_hits), model(120, 120, 120))
        for n_hits in ((150, 150, 150), (100, 150, 200))
    )
    assert calm.value == pytest.approx(wild.value)
    assert wild.high - wild.low > 2 * (calm.high - calm.low)


def test_a_difference_of_gaps_is_paired_as_well(seen: Seen) -> None:
    def model(n_rand: int) -> pd.DataFrame:
        same = with_hits(seen, np.arange(100) < 90).assign(variant="same")
        rand = with_hits(seen, np.arange(100) < n_rand).assign(variant="rand")
        return pd.concat([same, rand])

    gap = paired_difference("same", "rand", metric="gap")
    found = compare(gap, [model(80)], [model(50)])
    assert found[:3] == pytest.approx((0.1, 0.4, -0.3))
    assert found.p_value < 1e-6
    assert verdict(gap, "a", "b", found, found.p_value) == "a better"


def test_what_only_images_of_one_object_change_weighs_as_one_object(seen: Seen) -> None:
    """Twenty images that one model alone gets right: of twenty objects, or all of one."""
    hits = np.zeros((400, 2), dtype=bool)
    hits[:20, 0] = True
    spread, crowded = (
        [with_hits(seen, each).assign(id=ids) for each in hits.T]
        for ids in (np.arange(400), np.arange(400) // 20)
    )
    found = [compare(ACCURACY, *([table] for table in tables)) for tables in (spread, crowded)]
    assert found[0].value == found[1].value == 0.05
    assert found[0].p_value < 1e-5
    assert found[1].p_value > 0.2


def test_the_parts_of_the_deviation_tell_images_seeds_and_generators(seen: Seen) -> None:
    def model(*n_hits: int) -> list[pd.DataFrame]:
        return [with_hits(seen, np.arange(300) < n) for n in n_hits]

    other = model(100, 100, 100, 100)
    first = model(100, 100, 200, 200)
    of_generators = compare(ACCURACY, first, other, generators=("aabb", ()))
    of_seeds = compare(ACCURACY, first, other, generators=("aaaa", ()))
    assert of_generators.sd_seeds == of_seeds.sd_generators == 0
    assert of_generators.sd_generators == pytest.approx((1 / 3) / 2, abs=0.01)
    assert of_seeds.sd_seeds == pytest.approx((1 / 3) / 12**0.5, abs=0.01)
    assert of_generators.high > of_seeds.high  # two generators say less than four seeds


@pytest.mark.parametrize(
    ("margin", "said"),
    [
        (0.1, "equal within 10 points"),
        (0.03, "a not worse by more than 3 points"),
        (0.01, "cannot be told apart within 1 point"),
    ],
)
def test_a_margin_says_how_much_worse_the_interval_excludes(margin: float, said: str) -> None:
    found = compare_of(low=-0.02, high=0.06)
    assert verdict(ACCURACY, "a", "b", found, 0.4, margin) == said
    lower_is_better = replace(ACCURACY, higher_is_better=False)
    swapped = compare_of(low=-0.06, high=0.02)
    assert verdict(lower_is_better, "a", "b", swapped, 0.4, margin) == said


def compare_of(low: float, high: float) -> Difference:
    return Difference(0.5, 0.5, (low + high) / 2, low, high, 0.4, 0.05, 100)


def test_a_score_that_is_undefined_for_one_model_is_not_compared(seen: Seen) -> None:
    table = seen(shape=[0, 1], texture=[1, 0], prediction=[2, 2])
    decided = seen(shape=[0, 1], texture=[1, 0], prediction=[0, 0])
    found = compare(shape_bias("v"), [table], [decided])
    assert math.isnan(found.p_value)
    assert verdict(shape_bias("v"), "a", "b", found, math.nan) == "undefined"


def test_runs_on_other_images_are_refused(seen: Seen) -> None:
    with pytest.raises(ValueError, match="not on the same images"):
        compare(ACCURACY, [with_hits(seen, np.ones(3))], [with_hits(seen, np.ones(4))])
    with pytest.raises(ValueError, match="at least one run"):
        compare(ACCURACY, [], [])


def test_a_score_that_cannot_be_resampled_is_refused(seen: Seen) -> None:
    table = with_hits(seen, np.ones(3)).assign(texture=0, background=0)
    with pytest.raises(ValueError, match="v_worst_group_accuracy cannot be resampled"):
        compare(worst_group("v", chance=0.1), [table], [table])


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2], [0.2]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_gives_the_textbook_values(given: list[float], corrected: list[float]) -> None:
    assert holm(given) == pytest.approx(corrected)


def test_holm_does_not_count_what_is_undefined() -> None:
    assert holm([math.nan, 0.04]) == pytest.approx([math.nan, 0.04], nan_ok=True)
