"""The command line with official ImageNet images and a pretrained network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from support import patch_commands
from torch import Tensor, nn

from benchmarks import cli
from benchmarks.cli.models import prepared as prepared_images
from benchmarks.core.suite import DataSource, TestSet
from benchmarks.records.runs import read_runs
from benchmarks.suites import OFFICIAL_SUITES
from benchmarks.worlds.imagenet import classes_of
from cgn.data.preprocessing import IMAGENET, Preprocessing
from classifiers import load_model
from classifiers.networks.architectures import IMAGENET_MEAN, IMAGENET_STD
from classifiers.networks.input_transforms import Normalised
from classifiers.networks.pretrained import Pretrained


class KnowsNothing(nn.Module):
    """Takes every image for a tench."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.zeros(len(images)).long(), 1_000).float()


def network(spec: str, preprocessing: Preprocessing = IMAGENET) -> Pretrained:
    return Pretrained(
        spec=f"{spec}-pinned",
        module=KnowsNothing(),
        weights_sha256="w",
        preprocessing=preprocessing,
        n_classes=1_000,
    )


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A network that need not be loaded, and folders of this test alone."""
    patch_commands(monkeypatch, "load_model", network)
    monkeypatch.setenv("CGN_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stimuli(tmp_path: Path) -> Path:
    """Two cue-conflict stimuli a class."""
    for name in classes_of("cue_conflict"):
        folder = tmp_path / "cue-conflict" / name
        folder.mkdir(parents=True)
        for texture in (name, "dog" if name == "cat" else "cat"):
            Image.new("RGB", (224, 224)).save(folder / f"{name}1-{texture}2.png")
    return tmp_path / "cue-conflict"


def run(results: Path, text: str) -> int:
    return cli.main([*text.split(), "--device", "cpu", "--results", str(results)])


def test_a_folder_of_official_images_gets_their_own_protocol_and_leaderboard(
    stimuli: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert run(results, f"--suite cue-conflict --model timm:net.tag --data {stimuli}") == 0
    assert "official-part data from" in " ".join(capsys.readouterr().out.split())
    runs = read_runs(results)
    # The same answers are scored under each protocol that shows images in the same way.
    assert set(runs["protocol"]) == {
        f"cue-conflict@{name}-v2" for name in ("geirhos-avg", "sum", "argmax207", "argmax1000")
    }
    assert set(runs["source"]) == {"official-part"}  # 16 of 1,200 images that disagree
    assert set(runs["model"]) == {"timm:net.tag-pinned"}
    assert set(runs.loc[runs["metric"] == "shape_accuracy", "n"]) == {16}
    assert (results / "cue-conflict-official.csv").is_file()
    assert not (results / "cue-conflict.csv").exists()
    cli.main(["check", "--results", str(results)])
    *problems, _ = capsys.readouterr().out.splitlines()
    assert [each for each in problems if "changes that are in no commit" not in each] == []


def test_a_variant_without_images_leaves_its_own_scores_undefined_and_gives_the_others(
    stimuli: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in stimuli.glob("*/*.png"):
        if path.parent.name == path.stem.partition("-")[2].rstrip("0123456789"):
            path.unlink()
    results = tmp_path / "results"
    assert run(results, f"--suite cue-conflict --model timm:net.tag --data {stimuli}") == 0
    assert "undefined" in capsys.readouterr().out
    runs = read_runs(results)
    agree = runs["variant"] == "agree"
    assert runs[agree]["value"].isna().all()
    assert set(runs[agree]["n"]) == {0}
    accuracies = runs[~agree & (runs["metric"] == "shape_accuracy")]
    assert accuracies["value"].between(0, 1).all()
    cli.main(["check", "--results", str(results)])
    *problems, _ = capsys.readouterr().out.splitlines()
    assert [each for each in problems if "changes that are in no commit" not in each] == []
    assert cli.main(["rescore", "--results", str(results)]) == 0


def test_images_in_the_data_folder_are_found_unasked(stimuli: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    stimuli.rename(tmp_path / "data" / "cue-conflict")
    results = tmp_path / "results"
    assert run(results, "--suite cue-conflict --model efficientnet-lite0") == 0
    assert set(read_runs(results)["suite"]) == {"cue-conflict-official"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--suite in9 --model efficientnet-lite0", "for which in9 has no images here"),
        ("--suite cue-conflict --model erm --data STIMULI", "erm is trained here, on other"),
        ("--suite imagenet --model efficientnet-lite0", "need a folder of data"),
        ("--suite in9 --model timm:a.b --data STIMULI", "there is no folder"),
        (
            "--suite cue-conflict --model timm:a.b --data STIMULI --protocol in9@madry-v1",
            "has no protocol 'in9@madry-v1', only cue-conflict@geirhos-avg-v2",
        ),
        ("--suite in9 --model erm --precision bfloat16", "--precision is for pretrained networks"),
    ],
)
def test_models_without_their_images_are_refused(
    text: str, message: str, stimuli: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "results", text.replace("STIMULI", str(stimuli))) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results" / "runs.csv").exists()


def test_a_bare_name_is_refused_with_what_it_may_mean(
    stimuli: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    patch_commands(monkeypatch, "load_model", load_model)
    assert run(tmp_path / "results", f"--suite cue-conflict --model resnet50 --data {stimuli}") == 2
    assert "several networks; write timm:resnet50.a1_in1k" in capsys.readouterr().err


def test_images_are_prepared_as_the_network_asks_only_where_the_protocol_leaves_it_to_it(
    stimuli: Path,
) -> None:
    source = DataSource(folder=stimuli)
    suite = OFFICIAL_SUITES["cue-conflict"]
    question = network("a", Preprocessing(300, 288))
    for own, protocol, size_px in (
        (False, "geirhos-avg", 224),
        (True, "geirhos-avg", 288),
        (True, "cgn-paper", 224),
    ):
        variants = suite.variants(source)
        name = f"cue-conflict@{protocol}-v2"
        exam = TestSet(replace(suite, own_preprocessing=own), source, variants, "", name)
        prepared, shown = prepared_images(question, exam)
        assert prepared.variants["agree"].images(slice(1)).shape[2:] == (size_px, size_px)
        assert shown is question


def test_the_protocol_of_the_cgn_paper_normalises_with_other_statistics(stimuli: Path) -> None:
    class Seen(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3))

    source = DataSource(folder=stimuli)
    suite = OFFICIAL_SUITES["in9"]
    exam = TestSet(suite, source, {}, "", "in9@cgn-paper-v1")
    seen = Normalised(Seen(), IMAGENET_MEAN, IMAGENET_STD)
    _, shown = prepared_images(replace(network("a"), module=seen), exam)
    mean, deviation = torch.tensor([0.4717, 0.4499, 0.3837]), torch.tensor([0.26, 0.2516, 0.2575])
    assert torch.allclose(shown.module(torch.ones(1, 3, 2, 2))[0], (1 - mean) / deviation)


def test_another_precision_than_float32_is_named_in_the_row(stimuli: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    for flag in ("", " --precision float32", " --precision bfloat16"):
        text = f"--suite cue-conflict --model timm:net.tag --data {stimuli}{flag}"
        assert run(results, text) == 0
    names = {"timm:net.tag-pinned", "timm:net.tag-pinned+bfloat16"}
    assert set(read_runs(results)["model"]) == names


def test_predictions_on_images_shown_otherwise_lie_beside_the_first(
    stimuli: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    text = f"--suite cue-conflict --model timm:net.tag --data {stimuli}"
    for flag in ("", " --protocol cue-conflict@cgn-paper-v2"):
        assert run(results, f"{text}{flag}") == 0
    shown = capsys.readouterr().out
    assert "protocol cue-conflict@cgn-paper-v2" in " ".join(shown.split())
    assert {path.name for path in results.rglob("*.parquet")} == {
        "seed0.parquet",
        "resize256-seed0.parquet",
    }
    assert set(read_runs(results)["protocol"]) == {*OFFICIAL_SUITES["cue-conflict"].protocol_names}
    (results / "runs.csv").write_text(
        "".join(
            line
            for line in (results / "runs.csv").read_text().splitlines(keepends=True)
            if "sum-v2" not in line
        )
    )
    assert cli.main(["rescore", "--results", str(results)]) == 0
    assert f"rows added: {len(OFFICIAL_SUITES['cue-conflict'].scores)}" in capsys.readouterr().out
    cli.main(["check", "--results", str(results)])
    *problems, _ = capsys.readouterr().out.splitlines()
    assert [each for each in problems if "changes that are in no commit" not in each] == []


def test_reproduce_runs_what_was_published_and_says_what_cannot_be_had(
    stimuli: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def only_vgg(spec: str) -> Pretrained:
        if "vgg16" not in spec:
            raise ValueError(f"the weights of {spec} could not be downloaded")
        return replace(network(spec), spec=spec)

    patch_commands(monkeypatch, "load_model", only_vgg)
    results = tmp_path / "results"
    text = f"reproduce cue-conflict --data {stimuli} --device cpu --results {results}"
    for _ in range(2):
        assert cli.main(text.split()) == 0
        shown = capsys.readouterr()
        assert "the weights of tv:resnet50@IMAGENET1K_V1 could not be downloaded" in shown.err
        # These are 32 of 1,280 images, so nothing is held against what was published.
        assert "points" not in shown.out
        assert set(read_runs(results)["model"]) == {"tv:vgg16@IMAGENET1K_V1"}


def test_a_model_that_does_not_fit_a_suite_is_refused_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("images were read")

    patch_commands(monkeypatch, "load_test_set", read)
    assert run(tmp_path, "--suite in9 --model timm:net.tag --data embedded") == 2
    assert "knows ImageNet's 1,000 classes" in capsys.readouterr().err
