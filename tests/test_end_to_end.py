"""The main job at a tiny size: a CGN, its counterfactuals, a classifier, its scores, its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.core.context import SILENT, RunContext
from benchmarks.core.models import FittedModel
from benchmarks.core.suite import EMBEDDED
from benchmarks.records.runs import read_runs
from benchmarks.runner import evaluate_and_record, load_test_set
from benchmarks.suites import get_suite
from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.sampling import sample
from cgn.io.cache import weights_sha256
from cgn.training.small import TrainConfig, train
from classifiers import MODELS
from classifiers.fit import fit
from classifiers.networks.small import outputs


def test_a_cgn_a_classifier_and_its_rows_come_of_a_suites_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    suite = get_suite("colored-mnist")
    biased = suite.world.train(EMBEDDED).select(torch.arange(0, 4_000, 20))
    cgn = train(biased, 10, TrainConfig(steps=2, width=4, batch_size=40))
    assert biased.masks is not None
    sets = {
        "biased": biased,
        "counterfactual": sample(cgn, 100, seed=0),
        "abducted": real_image_counterfactuals(cgn, biased, biased.masks > 0, 100, seed=0),
    }
    recipe = replace(MODELS["cgn-ensemble"], epochs=0, steps=3, batch_size=20)
    own = {kind: sets[kind] for kind in recipe.trains_on}
    module = fit(recipe, own, n_classes=10, seed=0)
    fitted = FittedModel(recipe.name, module, weights_sha256(module), outputs=outputs)
    context = RunContext(torch.device("cpu"), tmp_path, tmp_path / "cache")
    test = load_test_set(suite, EMBEDDED, SILENT)
    rows = evaluate_and_record(test, fitted, context)
    runs = read_runs(tmp_path)
    assert len(runs) == len(rows)
    assert {score.key for score in suite.all_scores} == set(runs["variant"] + "_" + runs["metric"])
    assert {"cgn-ensemble", "cgn-ensemble/shape"} <= set(runs["model"])
    shares = runs[runs["metric"] != "conflict_overconfidence"]
    assert shares["value"].astype(float).between(0, 1).all()
