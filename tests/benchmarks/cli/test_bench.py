"""The command line end to end, on two tiny suites and stand-ins for fitted classifiers."""

from __future__ import annotations

import os
from ast import literal_eval
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
import torch
from support import patch_commands, patch_suites, tiny_images, tiny_suite
from torch import Tensor, nn

import benchmarks.records.published
import benchmarks.suites
from benchmarks import cli, runner
from benchmarks.cli.arguments import find_suites
from benchmarks.core.models import FittedModel
from benchmarks.core.scores import worst_group
from benchmarks.core.suite import DataSource, Suite, TestSet
from benchmarks.data import generators
from benchmarks.data.generators import Generation
from benchmarks.records.predictions import load
from benchmarks.records.runs import Row, read_runs
from benchmarks.runner import evaluate_and_record
from cgn.counterfactuals.sampling import Weights, find_weights
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, InMemory
from cgn.models.cgn import CGN, CGNConfig
from cgn.training.small import LossWeights, TrainConfig
from classifiers.checkpoints import Shipped
from classifiers.networks.small import InvariantEnsemble

READER = {"seed": 0, "generator_seed": "7"}


@dataclass(frozen=True)
class Recipe:
    """What the command line reads of a recipe."""

    name: str
    about: str = "A stand-in."
    trains_on: tuple[str, ...] = ("biased",)
    input_kind: str = "images"
    extra_supervision: str = ""
    selected_on: str = "nothing"
    source: str = "Nobody 2021"


class Reader(nn.Module):
    """Sees the first row's class, and misses it now and then, depending on its seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, images: Tensor) -> Tensor:
        label = (images[:, 0, 0, 0] * 255 / 100).round()
        missed = (images[:, 0, 1, 1] * 255) % (5 + self.seed) == 0
        return -((torch.where(missed, 0, label)[:, None] - torch.arange(3)) ** 2)


Fits = list[tuple[str, int, list[str]]]


@pytest.fixture
def suites() -> dict[str, Suite]:
    return {suite.name: suite for suite in (tiny_suite("tiny"), tiny_suite("other-mnist"))}


@pytest.fixture(autouse=True)
def fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suites: dict[str, Suite]) -> Fits:
    """Put tiny suites and recipes into the registries; returns what was fitted."""
    done: Fits = []

    def fit_cached(
        recipe: Recipe,
        sets: Mapping[str, ImageSet],
        *,
        seed: int,
        progress: Callable[[int, int], None],
        **_: object,
    ) -> tuple[nn.Module, str]:
        done.append((recipe.name, seed, sorted(sets)))
        progress(1, 1)
        return Reader(seed), f"weights-{seed}"

    recipes = [
        Recipe("erm"),
        Recipe("cgn", trains_on=("counterfactual",)),
        Recipe("cgn-ensemble", trains_on=("biased", "counterfactual")),
        Recipe("oracle", trains_on=("unbiased",), extra_supervision="true factors"),
        Recipe("gan", trains_on=("biased", "generated")),
        Recipe("cgn-abduct", trains_on=("abducted",)),
        Recipe("oracle-mask", input_kind="masks"),
    ]
    patch_suites(monkeypatch, suites)
    patch_commands(monkeypatch, "MODELS", {recipe.name: recipe for recipe in recipes})
    patch_commands(monkeypatch, "fit_cached", fit_cached)
    monkeypatch.setattr(generators, "find_weights", lambda *_, **__: Weights(Path("weights"), 7))
    monkeypatch.setattr(Generation, "draw", lambda self, kind: tiny_images(self.seed, n=6))
    patch_commands(
        monkeypatch, "outputs", lambda module, images: dict.fromkeys(["", "shape"], module(images))
    )
    monkeypatch.setenv("CGN_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    return done


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def command(results: Path, text: str) -> int:
    return cli.main([*text.split(), "--results", str(results), "--device", "cpu"])


def check(results: Path, *flags: str) -> int:
    versions = results.parent / "protocols.csv"
    words = ["check", "--results", results, "--protocols", versions, *flags]
    return cli.main([*map(str, words)])


def files(folder: Path) -> dict[str, bytes]:
    """All files in a folder but hidden ones, by path."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def problems_in(said: str) -> list[str]:
    """What `check` found, but for a working tree with changes, which is likely while this runs."""
    others = ("written down: ", "fewer than ", "problems: ", "all rows hold")
    lines = [line for line in said.splitlines() if not line.startswith(others)]
    return [line for line in lines if "changes that are in no commit" not in line]


def test_a_run_leaves_rows_predictions_and_a_leaderboard(results: Path) -> None:
    assert command(results, "--suite tiny --model erm --seeds 2") == 0
    assert list(files(results)) == [
        "predictions/tiny/embedded/erm/seed0.parquet",
        "predictions/tiny/embedded/erm/seed1.parquet",
        "predictions/tiny/embedded/erm__shape/seed0.parquet",
        "predictions/tiny/embedded/erm__shape/seed1.parquet",
        "runs.csv",
        "tiny.csv",
    ]
    runs = read_runs(results)
    assert len(runs) == 2 * 2 * 3  # seeds, outputs, scores
    assert set(runs["model"]) == {"erm", "erm/shape"}
    assert set(runs["weights_sha256"]) == {"weights-0", "weights-1"}
    board = pd.read_csv(results / "tiny.csv")
    assert board["model"].tolist() == ["erm", "erm/shape"]
    assert board["interval"][0] == "images, 2 seeds"
    assert 0.5 < board["hard_accuracy"][0] < 1


def test_stored_predictions_hold_the_score_of_the_row(results: Path) -> None:
    command(results, "--suite tiny --model erm")
    table, run = load(results / "predictions/tiny/embedded/erm/seed0.parquet")
    hard = table[table["variant"] == "hard"]
    rows = read_runs(results)
    row = rows[(rows["variant"] == "hard") & (rows["model"] == "erm")].iloc[0]
    assert row["value"] == pytest.approx((hard["prediction"] == hard["shape"]).mean())
    assert run.data_sha256 == row["data_sha256"]


def test_running_twice_changes_no_file(results: Path) -> None:
    command(results, "--suite all --model erm,cgn")
    before = files(results)
    assert command(results, "--suite all --model erm,cgn") == 0
    assert files(results) == before


def test_a_second_run_opens_the_images_of_the_first(
    results: Path, suites: dict[str, Suite]
) -> None:
    def broken(source: DataSource) -> NoReturn:
        raise AssertionError("images are drawn again")

    assert command(results, "--suite tiny --model erm,oracle") == 0
    before = files(results)
    world = replace(suites["tiny"].world, train=broken, unbiased=broken)
    suites["tiny"] = replace(suites["tiny"], world=world, variants=broken)
    assert command(results, "--suite tiny --model erm,oracle") == 0
    assert files(results) == before


def test_suites_of_one_world_share_each_fit(
    results: Path, fits: Fits, suites: dict[str, Suite]
) -> None:
    suites["other-mnist"] = replace(suites["other-mnist"], world=suites["tiny"].world)
    command(results, "--suite all --model erm,cgn-ensemble --seeds 2")
    assert fits == [
        ("erm", 0, ["biased"]),
        ("erm", 1, ["biased"]),
        ("cgn-ensemble", 0, ["biased", "counterfactual"]),
        ("cgn-ensemble", 1, ["biased", "counterfactual"]),
    ]


def test_no_row_of_a_recipe_lacks_its_selection_rule(results: Path) -> None:
    models = "erm,cgn,cgn-ensemble,oracle,gan,cgn-abduct"
    assert command(results, f"--suite all --model {models} --seeds 2") == 0
    assert set(read_runs(results)["selected_on"]) == {"nothing"}
    assert set(pd.read_csv(results / "tiny.csv")["selected_on"]) == {"nothing"}


def test_the_biased_images_are_counted_for_the_budget_of_every_recipe(
    results: Path, fits: Fits
) -> None:
    assert command(results, "--suite tiny --model cgn,cgn-abduct,erm") == 0
    assert all("biased" in sets for _, _, sets in fits)


def test_images_of_the_gan_are_drawn_for_each_seed_from_the_biased_ones(
    results: Path, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, str, int]] = []

    def draw(self: Generation, kind: str) -> ImageSet:
        drawn.append((kind, self.biased.sha256(), self.seed))
        return tiny_images(self.seed, n=6)

    monkeypatch.setattr(Generation, "draw", draw)
    assert command(results, "--suite tiny --model gan --seeds 2") == 0
    assert drawn == [("generated", tiny_images(3).sha256(), seed) for seed in (0, 1)]
    assert fits == [("gan", seed, ["biased", "generated"]) for seed in (0, 1)]


def test_a_row_names_the_seed_of_the_generator_its_model_was_trained_on(results: Path) -> None:
    assert command(results, "--suite tiny --model erm,cgn-ensemble,gan,cgn-abduct") == 0
    runs = read_runs(results)
    found = {str(m): set(rows["generator_seed"]) for m, rows in runs.groupby("model")}
    wanted = {"erm": "", "cgn-ensemble": "7", "gan": "0", "cgn-abduct": "7"}
    assert found == {f"{m}{head}": {seed} for m, seed in wanted.items() for head in ("", "/shape")}


def test_a_recipe_that_sees_masks_is_fitted_and_tested_on_masks(
    results: Path, suites: dict[str, Suite], monkeypatch: pytest.MonkeyPatch
) -> None:
    def masked(seed: int) -> ImageSet:
        images = tiny_images(seed)
        return replace(images, masks=255 * (images.pixels[:, :1] > 127).to(torch.uint8))

    tiny, seen = suites["tiny"], []
    variants = {"easy": masked(1), "hard": masked(2)}
    world = replace(tiny.world, train=lambda source: masked(3))
    suites["tiny"] = replace(tiny, world=world, variants=lambda source: variants)

    class Watching(Reader):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().forward(images)

    def fit_cached(
        recipe: Recipe, sets: Mapping[str, ImageSet], **_: object
    ) -> tuple[nn.Module, str]:
        seen.append(sets["biased"].images())
        return Watching(0), "weights"

    patch_commands(monkeypatch, "fit_cached", fit_cached)
    assert command(results, "--suite tiny --model oracle-mask") == 0
    sets = [masked(3), *variants.values()]
    expected = [each.as_masks().images() for each in sets]
    assert all(torch.equal(*pair) for pair in zip(seen, expected, strict=True))
    # The rows stand beside those of models that see the images.
    assert command(results, "--suite tiny --model erm") == 0
    assert read_runs(results)["data_sha256"].nunique() == 1


@pytest.fixture
def correlated(suites: dict[str, Suite]) -> Suite:
    """The suite `tiny`, of a world that takes a correlation."""

    def train(source: DataSource) -> ImageSet:
        return tiny_images(3 if source.correlation == 1 else 5)

    world = replace(suites["tiny"].world, train=train, supports_correlation=True)
    suites["tiny"] = replace(suites["tiny"], world=world)
    return suites["tiny"]


def test_a_model_trained_at_another_correlation_is_another_row_on_the_same_images(
    results: Path, correlated: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(results, "--suite tiny --model erm") == 0
    assert command(results, "--suite tiny --model erm --correlation 0.99") == 0
    assert "erm@0.99/shape" in capsys.readouterr().out
    runs = read_runs(results)
    assert set(runs["model"]) == {"erm", "erm/shape", "erm@0.99", "erm@0.99/shape"}
    assert runs["data_sha256"].nunique() == 1
    assert "predictions/tiny/embedded/erm@0.99__shape/seed0.parquet" in files(results)
    board = pd.read_csv(results / "tiny.csv").set_index("model")
    alike = {"erm": 1, "erm@0.99": 1}  # the stand-ins are
    assert board["rank_low"].dropna().to_dict() == alike
    assert cli.main(["compare", "erm@0.99", "erm", "--results", str(results)]) == 0
    assert capsys.readouterr().out.count("cannot be told apart") == 3
    check(results, "--pin")
    assert problems_in(capsys.readouterr().out) == []


def test_counterfactuals_come_from_the_cgn_of_the_correlation(
    results: Path, correlated: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    def find(
        world: str,
        sha256: str,
        own: Path,
        source: str,
        correlation: float,
        *,
        seed: int,
        method: str,
    ) -> Weights:
        asked.append((sha256, correlation))
        return Weights(Path("weights"), seed)

    monkeypatch.setattr(generators, "find_weights", find)
    command(results, "--suite tiny --model cgn")
    command(results, "--suite tiny --model cgn --correlation 0.9")
    assert asked == [(tiny_images(3).sha256(), 1.0), (tiny_images(5).sha256(), 0.9)]


def test_compare_says_how_a_model_of_another_correlation_is_run(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["cgn@0.99", "cgn-ensemble@0.99/shape", "erm"]
    for models, said in (
        (names[:2], "with `bench.py --suite … --model cgn,cgn-ensemble --correlation 0.99`"),
        (names[1:], "--correlation 0.99` and `bench.py --suite … --model erm`"),
    ):
        assert cli.main(["compare", *models, "--results", str(results)]) == 2
        assert said in capsys.readouterr().err


def test_the_table_shows_percent_and_how_to_get_the_official_data(
    results: Path, suites: dict[str, Suite], capsys: pytest.CaptureFixture[str]
) -> None:
    digits = suites["other-mnist"]
    world = replace(digits.world, official_files="MNIST's idx files")
    suites["other-mnist"] = replace(digits, world=world)
    assert command(results, "--suite mnists --model erm") == 0
    shown = capsys.readouterr().out
    assert "erm/shape" in shown
    assert "33.3" in shown
    assert "images, one seed" in shown
    assert "or name their folder with --data" in " ".join(shown.split())


def test_official_data_in_the_data_folder_is_taken_unasked(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    (folder / "images.txt").touch()
    command(results, "--suite tiny --model erm")
    command(results, "--suite tiny --model erm --data embedded")
    assert set(read_runs(results)["source"]) == {"official", "embedded"}


def test_list_shows_every_suite_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    names = ["tiny", "other-mnist", "erm", "cgn", "cgn-ensemble"]
    assert all(f" {name} " in shown for name in names)
    assert "Nobody 2021" in shown
    assert "true factors" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--suite tinny --model erm", "unknown suite 'tinny'; did you mean 'tiny'?"),
        ("--suite tiny --model ermm", "unknown model 'ermm'; did you mean 'erm'?"),
        ("--suite tiny,xyz --model erm", "unknown suite 'xyz'; see `bench.py list`"),
        ("--suite tiny --model erm --seeds abc", "--seeds: expected a whole number, got 'abc'"),
        ("--suite tiny --model erm --seeds 0", "--seeds must be positive, got 0"),
        ("--suite tiny --model erm --seeds -1", "--seeds"),
        ("--suite tiny --model erm --data nowhere", "there is no folder nowhere"),
        ("--suite tiny --model erm --data .", "has no images.txt; point --data"),
        ("--suite tiny --model erm --textures .", "--textures is for wildlife-mnist"),
        ("--suite tiny --model erm --correlation 1.5", "must lie in (0.1, 1], got 1.5"),
        ("--suite tiny --model erm --correlation x", "--correlation: expected a number, got 'x'"),
        ("--suite tiny --model erm --correlation 0.9", "the images of tiny follow their class"),
        ("--suite tiny", "--model is required. See `bench.py run --help`"),
        (
            "--suite tiny --model oracle-mask",
            "oracle-mask sees true object masks, which tiny does not have for easy, hard",
        ),
        ("--suite tiny --model erm --sees 3", "there is no flag --sees; did you mean '--seeds'?"),
        ("rum --suite tiny", "there is no command 'rum'; did you mean 'run'?"),
        ("train gan --suite tiny", "there is no command 'gan'; it is the name of a model"),
    ],
)
def test_bad_input_gets_one_line_code_2_and_no_file(
    text: str, message: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(results, text) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert files(results) == {}


def test_results_that_cannot_be_written_are_found_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fits: Fits
) -> None:
    (tmp_path / "file").touch()
    assert command(tmp_path / "file" / "results", "--suite tiny --model erm") == 2
    assert "--results: expected a folder" in capsys.readouterr().err
    assert fits == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.mkdir(mode=0o555)
    assert command(results, "--suite tiny --model erm") == 2
    assert "Permission denied" in capsys.readouterr().err


def test_a_cut_runs_csv_is_refused_and_left_alone(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results.mkdir()
    (results / "runs.csv").write_text("suite,protocol\nti")
    assert command(results, "--suite tiny --model erm") == 2
    assert "restore it from git" in capsys.readouterr().err
    assert (results / "runs.csv").read_text() == "suite,protocol\nti"


def test_quality_measures_samples_and_counterfactuals_of_real_images(
    tmp_path: Path,
    suites: dict[str, Suite],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(source: DataSource) -> ImageSet:
        images = tiny_images(3)
        images = images.select(torch.arange(120) % len(images))
        large = images.pixels.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        return replace(
            images, reader=InMemory(large), masks=255 * (large[:, :1] > 127).to(torch.uint8)
        )

    def true_counterfactuals(source: DataSource) -> dict[str, ImageSet]:
        images = train(source)
        other = (images.factors.shape + 1) % 3
        return {"do_texture": replace(images, factors=images.factors._replace(texture=other))}

    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path))
    patch_commands(monkeypatch, "fit_cached", lambda *_, **__: (InvariantEnsemble(3, 32), ""))
    suites["tiny"] = replace(
        suites["tiny"],
        world=replace(
            suites["tiny"].world,
            train=train,
            unbiased=train,
            true_counterfactuals=true_counterfactuals,
        ),
    )
    weights = tmp_path / "my.safetensors"
    CGN(CGNConfig(n_classes=3, image_size_px=32, width=8)).save(weights, {})
    text = f"quality --suite tiny --device cpu --weights {weights}"
    assert cli.main(text.split()) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(lines["abducted_composition"]) == 0
    # What should change is what did not: the stand-in for the truth is the image itself.
    assert float(lines["abducted_do_texture_untouched"]) == 0
    assert float(lines["abducted_do_texture_error"]) > 0
    wanted = {"shape_judge", "mask_area", "abducted_mask_iou", "abducted_shape_effectiveness"}
    wanted |= {"verified_share", "abducted_verified_share", "coverage", "abducted_diversity"}
    assert wanted <= set(lines)


def test_neither_judge_nor_check_has_seen_what_is_measured_and_all_see_every_class(
    suites: dict[str, Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.arange(3).repeat_interleave(20)  # sorted by class, as the embedded digits are
    pixels = torch.zeros(60, 3, 32, 32, dtype=torch.uint8)
    images = ImageSet(pixels, Factors.aligned(labels), torch.arange(60), pixels[:, :1])
    seen: dict[str, ImageSet] = {}

    def fitted(recipe: Recipe, sets: dict[str, ImageSet], **_: object) -> tuple[nn.Module, str]:
        seen.setdefault(recipe.name, *sets.values())
        return InvariantEnsemble(3, 32), ""

    def taught(cgn: object, real: ImageSet, *_: object, **__: object) -> ImageSet:
        return real

    def tried(held_out: ImageSet, classify: object, **_: object) -> dict[str, float]:
        seen["tried"] = held_out
        return {}

    def measured(generator: object, real: ImageSet, *_: object, **__: object) -> dict[str, float]:
        seen["measured"] = real
        return {}

    patch_commands(monkeypatch, "fit_cached", fitted)
    patch_commands(monkeypatch, "verifier_training_set", taught)
    patch_commands(monkeypatch, "accuracy", tried)
    patch_commands(monkeypatch, "sample_quality", lambda *_, **__: {})
    patch_commands(monkeypatch, "intervention_quality", measured)
    patch_commands(monkeypatch, "coverage_and_diversity", lambda *_, **__: {})
    world = replace(
        suites["tiny"].world,
        train=lambda _: images,
        unbiased=lambda _: images,
        true_counterfactuals=lambda _: {},
    )
    suites["tiny"] = replace(suites["tiny"], world=world)
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path))
    weights = tmp_path / "my.safetensors"
    CGN(CGNConfig(n_classes=3, image_size_px=32, width=8)).save(weights, {})
    assert cli.main(f"quality --suite tiny --device cpu --weights {weights}".split()) == 0
    assert set(seen) == {"factor-classifier", "check", "tried", "measured"}
    for part in seen.values():
        assert set(part.factors.shape.tolist()) == {0, 1, 2}
    everything = list(range(60))
    for learned, unseen in (("factor-classifier", "tried"), ("check", "measured")):
        both = torch.cat([seen[learned].ids, seen[unseen].ids])
        assert both.sort().values.tolist() == everything
    assert not set(seen["measured"].ids.tolist()) & set(seen["factor-classifier"].ids.tolist())


def test_train_writes_weights_with_their_origin_and_a_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs: list[TrainConfig] = []

    def train(images: ImageSet, n_classes: int, config: TrainConfig, **_: object) -> CGN:
        configs.append(config)
        return CGN(CGNConfig(n_classes=n_classes, image_size_px=32, width=4))

    patch_commands(monkeypatch, "train", train)
    patch_commands(monkeypatch, "sheet", lambda cgn, path, *, seed: path.touch())
    patch_commands(monkeypatch, "fit_cached", lambda *_, **__: (InvariantEnsemble(3, 32), ""))
    patch_commands(monkeypatch, "accuracy", lambda *_, **__: {"shape_judge": 0.75})
    patch_commands(monkeypatch, "verifier_training_set", lambda cgn, images, *_, **__: images)
    measures = {"mask_area": 0.25, "coverage": 0.5}
    patch_commands(monkeypatch, "generator_quality", lambda *_, **__: measures)
    out = tmp_path / "new" / "my.safetensors"
    text = f"train cgn --suite tiny --steps 7 --seed 3 --weights.style 0.5 --device cpu --out {out}"
    assert cli.main(text.split()) == 0
    assert configs == [TrainConfig(steps=7, seed=3, weights=LossWeights(style=0.5))]
    _, metadata = CGN.load(out)
    assert metadata["command"] == f"python bench.py {text}"
    assert metadata["train_sha256"] == tiny_images(3).sha256()
    assert metadata["quality"] == {"shape_judge": 0.75, "mask_area": 0.25, "coverage": 0.5}
    assert metadata["correlation"] == 1.0
    assert sorted(path.name for path in out.parent.iterdir()) == ["my.png", "my.safetensors"]
    assert str(out) in capsys.readouterr().out


def test_a_shipped_classifier_is_fitted_written_and_scored_on_all_suites_of_its_world(
    results: Path, tmp_path: Path, suites: dict[str, Suite], monkeypatch: pytest.MonkeyPatch
) -> None:
    suites["other-mnist"] = replace(suites["other-mnist"], world=suites["tiny"].world)
    patch_commands(
        monkeypatch, "save_classifier", lambda path, _, about: path.write_text(repr(about))
    )
    patch_commands(
        monkeypatch, "load_shipped", lambda spec, world, folder: Shipped(Reader(0), "w", READER)
    )
    out = tmp_path / "weights"
    assert command(results, f"train classifier --suite tiny --model cgn-ensemble --out {out}") == 0
    about = literal_eval((out / "cgn-ensemble-tiny-world.safetensors").read_text())
    assert about["train_sha256"] == {
        "biased": tiny_images(3).sha256(),
        "counterfactual": tiny_images(0, n=6).sha256(),
    }
    assert (about["seed"], about["generator_seed"]) == (0, "7")
    assert about["command"].startswith("python bench.py train classifier --suite tiny")
    boards = {name: pd.read_csv(results / f"{name}.csv") for name in ("tiny", "other-mnist")}
    for name, board in boards.items():
        assert board["model"].tolist() == ["shipped:cgn-ensemble", "shipped:cgn-ensemble/shape"]
        assert board["rank_low"].isna().all()  # what it is of has a rank, from its own seeds
        assert about["quality"][name] == pytest.approx(board["hard_accuracy"][0])
    before = files(results)
    assert command(results, "--suite all --model shipped:cgn-ensemble") == 0
    assert files(results) == before


def test_a_shipped_classifier_is_refused_on_other_images_than_it_was_fitted_for(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images.txt").touch()
    text = f"--suite other-mnist --model shipped:erm --data {tmp_path}"
    assert command(results, text) == 2
    assert "was fitted on the embedded data" in capsys.readouterr().err
    assert command(results, "--suite tiny --model shipped:none") == 2
    assert "no classifier shipped:none of tiny-world is shipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--suite tiny --steps 0", "must be positive"),
        ("--suite tiny --steps many", "--steps: expected a whole number, got 'many'"),
        ("--suite tinny", "did you mean 'tiny'?"),
    ],
)
def test_bad_settings_are_refused_before_training(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my.safetensors"
    assert cli.main(["train", "cgn", *text.split(), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", benchmarks.suites.SUITES)
def test_every_suite_is_called_what_its_results_are_called(name: str) -> None:
    assert benchmarks.suites.SUITES[name].name == name


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_interruption_exits_with_130_and_leaves_whole_rows(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Generation, "draw", interrupt)
        assert command(results, "--suite tiny --model cgn") == 130
        assert files(results) == {}
        patch_commands(patch, "show_result", interrupt)
        assert command(results, "--suite tiny --model erm") == 130
    assert "run the same command again" in capsys.readouterr().err
    assert command(results, "--suite tiny --model erm,cgn") == 0
    assert len(read_runs(results)) == 2 * 2 * 3  # models, outputs, scores


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "bench.py --suite in9 --model cgn-ensemble" in capsys.readouterr().out


def test_compare_tests_every_score_of_every_suite_both_models_ran_on(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(results, "--suite all --model erm --seeds 2") == 0
    assert command(results, "--suite tiny --model oracle --seeds 2") == 0
    before = files(results)
    capsys.readouterr()
    assert cli.main(["compare", "oracle", "erm", "--results", str(results)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("cannot be told apart") == 3  # the stand-ins are alike
    assert "other-mnist" not in printed
    assert files(results) == before


def test_compare_of_models_that_never_ran_names_the_command_that_runs_them(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(results, "--suite tiny --model erm") == 0
    assert cli.main(["compare", "erm", "oracle", "--results", str(results)]) == 2
    assert "--model erm,oracle" in capsys.readouterr().err


def test_check_ends_with_one_if_a_row_does_not_hold_and_writes_a_summary(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(results, "--suite tiny --model erm") == 0
    rows = (results / "runs.csv").read_text().splitlines()
    (results / "runs.csv").write_text("\n".join([*rows, rows[-1]]) + "\n")
    capsys.readouterr()
    summary = tmp_path / "summary.md"
    assert check(results, "--summary", str(summary)) == 1
    assert "gap: doubled" in capsys.readouterr().out
    assert "gap: doubled" in summary.read_text()
    assert "| erm |" in summary.read_text()


def test_check_of_a_folder_without_rows_is_no_success(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(results) == 2
    assert "holds no rows to check" in capsys.readouterr().err


def test_check_against_an_unknown_revision_is_one_clear_line(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(results, "--suite tiny --model erm") == 0
    assert check(results, "--against", "nowhere") == 2
    assert "at 'nowhere'" in capsys.readouterr().err


@pytest.fixture
def official(suites: dict[str, Suite], tmp_path: Path) -> str:
    """Make the suite `other-mnist` one without embedded images; returns the flag for its data."""

    def variants(source: DataSource) -> dict[str, ImageSet]:
        if source.folder is None:
            raise ValueError("name a folder with --data")
        return {"easy": tiny_images(1), "hard": tiny_images(2)}

    suites["other-mnist"] = replace(suites["other-mnist"], variants=variants, embedded=False)
    (tmp_path / "images.txt").touch()
    return f"--data {tmp_path}"


def test_a_suite_without_embedded_images_says_what_it_needs(
    results: Path, official: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(results, "--suite other-mnist --model erm") == 2
    assert "name a folder with --data" in capsys.readouterr().err
    assert command(results, f"--suite other-mnist --model erm {official}") == 0


def test_check_and_report_cope_with_suites_that_have_no_embedded_images(
    results: Path,
    official: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = CGNConfig(n_classes=3, image_size_px=16, width=8, noise_size=4, tile_px=16)
    CGN(config).save(tmp_path / "cgn.safetensors", {})
    patch_commands(monkeypatch, "find_weights", lambda *_: Weights(tmp_path / "cgn.safetensors", 0))
    assert command(results, f"--suite all --model erm {official}") == 0
    assert command(results, "--suite tiny --model erm --data embedded") == 0
    capsys.readouterr()
    check(results, "--pin")
    assert problems_in(capsys.readouterr().out) == []
    assert cli.main(["report", "--results", str(results)]) == 0
    assert 'id="other-mnist"' in (results / "report.html").read_text()


def test_the_twins_of_the_mnists_are_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_commands(monkeypatch, "ALL_SUITES", benchmarks.suites.ALL_SUITES)
    patch_commands(monkeypatch, "GROUPS", benchmarks.suites.GROUPS)
    names = [suite.name for suite in find_suites("t10k")]
    assert names == ["colored-mnist-t10k", "double-colored-mnist-t10k", "wildlife-mnist-t10k"]
    assert not set(names) & set(benchmarks.suites.SUITES)
    assert not set(names) & {suite.name for suite in find_suites("all,mnists")}


def test_rescore_adds_what_a_new_score_lacks_and_a_second_time_nothing(
    results: Path, suites: dict[str, Suite], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(results, "--suite all --model erm --seeds 2") == 0
    for name, suite in suites.items():
        suites[name] = replace(suite, scores=(*suite.scores, worst_group("hard", chance=1 / 3)))
    capsys.readouterr()
    assert cli.main(["rescore", "--suite", "tiny", "--results", str(results)]) == 0
    assert cli.main(["rescore", "--results", str(results)]) == 0
    added = files(results)
    assert cli.main(["rescore", "--results", str(results)]) == 0
    assert capsys.readouterr().out == "rows added: 4\nrows added: 4\nrows added: 0\n"
    assert files(results) == added
    assert "hard_worst_group_accuracy" in (results / "other-mnist.csv").read_text()


def test_report_writes_one_page_beside_the_results(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CGNConfig(n_classes=3, image_size_px=16, width=8, noise_size=4, tile_px=16)
    CGN(config).save(tmp_path / "cgn.safetensors", {})
    patch_commands(monkeypatch, "find_weights", lambda *_: Weights(tmp_path / "cgn.safetensors", 0))
    assert command(results, "--suite tiny --model erm,oracle --seeds 2") == 0
    assert cli.main(["report", "--results", str(results)]) == 0
    page = (results / "report.html").read_text()
    assert 'data-model="oracle"' in page
    assert "Samples of the CGN of tiny-world" in page
    assert not list(results.glob("correlation*.svg"))


def test_report_draws_the_correlations_if_there_are_several(
    results: Path, correlated: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CGNConfig(n_classes=3, image_size_px=16, width=8, noise_size=4, tile_px=16)
    CGN(config).save(tmp_path / "cgn.safetensors", {})
    patch_commands(monkeypatch, "find_weights", lambda *_: Weights(tmp_path / "cgn.safetensors", 0))
    for correlation in (1, 0.99, 0.9):
        assert command(results, f"--suite tiny --model erm --correlation {correlation}") == 0
    assert cli.main(["report", "--results", str(results)]) == 0
    for page in ("light", "dark"):  # that the figure lies on
        drawn = (results / f"correlation-{page}.svg").read_text()
        assert ">tiny, embedded</text>" in drawn


def test_reproduce_prints_nothing_published_for_suites_nobody_else_ran(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reproduce", "tiny", "--results", str(results)]) == 2
    assert "nothing published is on record for tiny" in capsys.readouterr().err


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something published of both suites."""
    rows = [
        f"{suite},hard_accuracy,{words},{model},0.9,100,published,p,s"
        for suite in ("other-mnist", "tiny")
        for words, model in (("plain", "erm"), ("both", "cgn+original"))
    ]
    columns = "suite,score,model,measured,value,n,kind,protocol,source"
    (tmp_path / "facts.csv").write_text("\n".join([columns, *rows]) + "\n")
    monkeypatch.setattr(benchmarks.records.published, "FACTS", tmp_path / "facts.csv")


def reproduce(results: Path, flags: str, suite: str = "other-mnist") -> int:
    text = f"reproduce {suite} --results {results} {flags}"
    return cli.main(text.split())


@pytest.mark.usefixtures("facts")
def test_reproduce_makes_what_lacks_and_says_how_far_it_is(
    results: Path, official: str, fits: Fits, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(results, f"--suite other-mnist --model erm {official}") == 0
    fits.clear()
    assert reproduce(results, f"--seeds 3 {official} --device cpu") == 0
    missing = {"cgn-abduct": 3, "cgn-ensemble": 3, "oracle": 3, "erm": 2}
    assert Counter(name for name, *_ in fits) == missing  # there is a row of erm with seed 0
    shown = capsys.readouterr()
    assert " on other-mnist, seed 0: 1 of 11 fits, 0:00:0" in shown.err
    assert " on other-mnist, seed 2: 11 of 11 fits, 0:00:00 left" in shown.err
    assert "not run: cgn+original" in " ".join(shown.out.split())
    runs = read_runs(results)
    assert set(runs[runs["model"] == "oracle"]["seed"]) == {0, 1, 2}


@pytest.mark.usefixtures("facts")
def test_an_interrupted_reproduction_goes_on_where_it_was(
    results: Path, official: str, fits: Fits, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def until_oracle(exam: TestSet, fit: FittedModel, *rest: Any) -> list[Row]:
            if fit.name == "oracle":
                raise KeyboardInterrupt
            return evaluate_and_record(exam, fit, *rest)

        patch.setattr(runner, "evaluate_and_record", until_oracle)
        assert reproduce(results, f"--quick {official}") == 130
    fits.clear()
    assert reproduce(results, f"--quick {official}") == 0
    assert [(name, seed) for name, seed, _ in fits] == [("oracle", 0), ("oracle", 1)]
    before = files(results)
    assert reproduce(results, f"--quick {official}") == 0
    assert files(results) == before
    assert len(fits) == 2


@pytest.mark.usefixtures("facts")
def test_reproduce_only_prints_when_told_so(
    results: Path, fits: Fits, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(results, "--no-run") == 0
    assert "not run: erm on official data" in " ".join(capsys.readouterr().out.split())
    assert fits == []
    assert files(results) == {}


@pytest.mark.usefixtures("facts")
def test_reproduce_asks_for_the_official_data(
    results: Path, fits: Fits, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(results, "--data embedded") == 2
    assert "name their folder with --data, or print what is there" in capsys.readouterr().err
    assert fits == []


@pytest.mark.usefixtures("facts")
def test_reproduce_asks_for_the_last_suites_cgn_before_the_first_fit(
    results: Path,
    official: str,
    suites: dict[str, Suite],
    fits: Fits,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def find(world: str, *rest: Any, seed: int, method: str) -> Weights:
        return Weights(Path("weights"), 0) if world == "tiny-world" else find_weights(world, *rest)

    monkeypatch.setattr(generators, "find_weights", find)
    suites["tiny"] = replace(suites["tiny"], world=replace(suites["tiny"].world, name="farm"))
    assert reproduce(results, official, "other-mnist,tiny") == 2
    assert "train one first, by `train cgn` with the same --data" in capsys.readouterr().err
    assert fits == []
