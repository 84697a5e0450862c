"""The commands of the ImageNet CGN end to end, on tiny networks of random weights."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from imagenet_networks import tiny_cgn
from PIL import Image
from support import patch_commands
from torch import Tensor, nn

from benchmarks import cli
from cgn.counterfactuals.shards import load_shards
from cgn.models.imagenet.cgn import ImageNetCGN
from cgn.models.imagenet.pretrained import authors_state

TRAIN = [
    *("train", "cgn", "--suite", "in9", "--scale", "imagenet", "--biggan", "random:16:4"),
    *("--u2net", "random:8", "--vgg", "random", "--images-per-step", "2"),
]


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_training_leaves_weights_with_their_origin_losses_and_sheets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cgn.safetensors"
    command = [*TRAIN, "--steps", "2", "--without", "texture", "--preset", "code"]
    command += ["--checkpoint-minutes", "0"]
    assert cli.main([*command, "--weights.mask-area", "7", "--out", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    cgn, about = ImageNetCGN.load(out)
    assert cgn.config.image_size_px == 16
    assert about["config"]["weights"]["texture"] == 0
    assert about["config"]["weights"]["mask_area"] == 7
    assert about["config"]["texture_learning_rate"] == 3e-5
    assert "--without texture" in about["command"]
    with out.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert "texture" not in rows[0]
    assert len(list(out.with_suffix("").glob("step*.png"))) == 2
    assert not out.with_suffix(".checkpoint").exists()


def test_a_dry_run_says_what_is_needed_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.safetensors"
    assert cli.main([*TRAIN, "--steps", "9", "--dry-run", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    lines = ("parameters", "memory", "steps        9 of 2 images", "a pass", "time left")
    assert all(line in shown for line in lines)
    assert not list(tmp_path.glob("c.*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite", "in9"], "--u2net is required"),
        (
            ["--suite", "cue-conflict", "--u2net", "random:8"],
            "--suite: expected in9, got 'cue-conflict'",
        ),
        (["--suite", "in9", "--u2net", "random:8", "--tile-px", "8"], "there is no flag --tile-px"),
        (
            ["--suite", "in9", "--u2net", "nothing.pth", "--biggan", "random:16:4"],
            "no file nothing",
        ),
    ],
)
def test_what_training_cannot_begin_with_is_said_in_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "cgn", "--scale", "imagenet", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_setting_of_the_imagenet_scale_is_refused_at_the_small_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["train", "cgn", "--suite", "in9", "--images-per-step", "4"]) == 2
    assert "there is no flag --images-per-step" in capsys.readouterr().err


@pytest.fixture
def authors_file(tmp_path: Path) -> Path:
    torch.save(authors_state(*tiny_cgn()), tmp_path / "cgn.pth")
    return tmp_path / "cgn.pth"


def test_counterfactuals_of_the_authors_weights_are_drawn_once(
    authors_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    command = ["counterfactuals", "--weights", str(authors_file), "--out", str(out), "--n", "5"]
    command += ["--shard-size", "2", "--classes", "1,2,3", "--seed", "4"]
    assert cli.main(command) == 0
    assert "wrote 5 counterfactuals in 3 files" in capsys.readouterr().out
    images = load_shards(out, tmp_path / "cache")
    assert images.factors.background.tolist() == [3] * 5
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert cli.main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    assert cli.main([*command, "--truncation", "0.9"]) == 2
    assert "holds another set: it differs in truncation" in capsys.readouterr().err


def test_a_set_without_a_number_is_refused(
    authors_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["counterfactuals", "--weights", str(authors_file), "--out", "x"]) == 2
    assert "--n is required" in capsys.readouterr().err


class Probabilities(nn.Module):
    """Takes an image's brightness for its class."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(4)[(images.mean(dim=(1, 2, 3)) * 4).long().clamp(0, 3)]


def test_quality_prints_scores_with_the_number_of_images_and_parts(
    authors_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    patch_commands(monkeypatch, "InceptionProbabilities", Probabilities)
    patch_commands(monkeypatch, "segmenter", lambda: lambda images: images[:, :1])
    patch_commands(monkeypatch, "distances", lambda *_, **__: {"fid": 3.5})
    command = ["quality", "--suite", "in9", "--scale", "imagenet", "--n", "6"]
    assert cli.main(command) == 2
    assert "--weights is required" in capsys.readouterr().err
    (tmp_path / "real" / "a").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "real" / "a" / "1.png")
    command += ["--weights", str(authors_file), "--real", str(tmp_path / "real")]
    assert cli.main(command) == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(shown["n"]) == 6
    assert float(shown["inception_splits"]) == 2
    assert float(shown["fid"]) == 3.5
    assert 0 < float(shown["mask_area"]) < 1
    assert "mask_iou" in shown
