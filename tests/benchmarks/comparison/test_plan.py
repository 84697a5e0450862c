"""Plans come from stored runs, and say what the stored runs themselves could see."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import FirstRow, patch_suites, run_model, tiny_suite

from benchmarks import cli
from benchmarks.comparison.plan import Pilot, make_plans, pilot
from benchmarks.core.evaluate import evaluate
from benchmarks.core.scores import accuracy
from benchmarks.core.suite import EMBEDDED
from benchmarks.records.stored_runs import StoredRun

SCORE = accuracy("v", chance=0.1)


def run(seed: int, share: float, generator: str = "", *, per_object: int = 1) -> StoredRun:
    """A run that is right about a share of 400 images."""
    hits = np.random.default_rng(seed).random(400) < share
    ids = np.arange(400) // per_object
    table = pd.DataFrame({"variant": "v", "id": ids, "shape": 0, "prediction": (~hits).astype(int)})
    return StoredRun(seed, generator, table)


def stored(n_seeds: int = 3, n_generators: int = 0, per_object: int = 1) -> Pilot:
    names = [str(k % n_generators) if n_generators else "" for k in range(n_seeds)]
    first = [run(k, 0.7, names[k], per_object=per_object) for k in range(n_seeds)]
    second = [run(100 + k, 0.6, per_object=per_object) for k in range(n_seeds)]
    return pilot(SCORE, ("a", "b"), first, second)


def test_a_pilot_says_how_large_the_stored_runs_are() -> None:
    found = stored(6, 3, per_object=4)
    assert (found.design.clusters, found.images_per_cluster) == (100, 4)
    assert found.design.seeds == (6, 6)
    assert found.design.generators == (3, 0)
    assert found.difference == pytest.approx(0.1, abs=0.05)


def test_more_of_anything_sees_more() -> None:
    plans = make_plans(stored(), 0.05)
    assert [plan.seeds for plan in plans] == [3, 5, 10, 20]
    assert [plan.images for plan in plans] == [400] * 4
    detectable = [plan.detectable for plan in plans]
    assert detectable == sorted(detectable, reverse=True)
    (larger,) = make_plans(stored(), 0.05, images=4_000, seeds=3)
    assert larger.detectable < detectable[0]
    assert larger.power > plans[0].power


def test_the_images_that_are_needed_have_the_wanted_power() -> None:
    (plan,) = make_plans(stored(per_object=4), 0.1, seeds=10)
    assert plan.images_needed % 4 == 0
    (again,) = make_plans(stored(per_object=4), 0.1, seeds=10, images=int(plan.images_needed))
    assert 0.8 <= again.power < 0.83


def test_generators_are_planned_as_they_were_stored() -> None:
    assert [plan.generators for plan in make_plans(stored(3, 3), 0.1)] == [3, 5, 10, 20]
    assert [plan.generators for plan in make_plans(stored(6, 3), 0.1)] == [3, 3, 3, 3]
    (plan,) = make_plans(stored(6, 3), 0.1, seeds=10, generators=5)
    assert plan.generators == 5


def test_one_stored_seed_plans_one_seed_and_refuses_more() -> None:
    (plan,) = make_plans(stored(1), 0.05)
    assert plan.seeds == 1
    assert math.isfinite(plan.images_needed)
    with pytest.raises(ValueError, match="not known: a and b has one stored seed"):
        make_plans(stored(1), 0.05, seeds=3)


def test_runs_on_other_images_and_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="no stored runs of b"):
        pilot(SCORE, ("a", "b"), [run(0, 0.5)], [])
    fewer = run(1, 0.5)._replace(predictions=run(1, 0.5).predictions.head(300))
    with pytest.raises(ValueError, match="not on the same images"):
        pilot(SCORE, ("a", "b"), [run(0, 0.5)], [fewer])


def test_the_command_shows_variances_and_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tiny_suite()
    patch_suites(monkeypatch, {suite.name: suite})
    table = evaluate(FirstRow(), suite.variants(EMBEDDED))[0]
    for seed in range(3):
        moved = (table["prediction"] + (table["id"] % (4 + seed) == 0)) % 3
        run_model(tmp_path, table, model="good", seed=seed)
        run_model(tmp_path, table.assign(prediction=moved), model="bad", seed=seed)
    common = ["--suite", "tiny", "--results", str(tmp_path)]
    assert cli.main(["plan", "good", "bad", *common, "--points", "5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "seeds of bad" in shown
    assert "What it takes to see 5 points" in shown
    assert cli.main(["plan", "good", "none", *common]) == 2
    assert "predictions of both good and none" in capsys.readouterr().err
    assert cli.main(["plan", "good", "bad", *common, "--points", "0"]) == 2
    assert "--points must be positive" in capsys.readouterr().err
