"""Images of one's own: a folder a class, or a set of the hub."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import cli
from benchmarks.cli.models import with_outputs_of
from benchmarks.suites import OFFICIAL_SUITES
from benchmarks.suites.decisions import decide_in9
from cgn.data.factors import Factors
from cgn.data.hub import hub_images
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet, InMemory
from cgn.data.preprocessing import AS_IT_IS, Preprocessing
from classifiers import load_model
from classifiers.networks.pretrained import Pretrained
from classifiers.networks.small import InvariantEnsemble

SMALL = Preprocessing(32, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of two classes, whose brightness tells the class, and their masks."""
    root = tmp_path_factory.mktemp("own")
    for label, name in enumerate(("cat", "dog")):
        for kind in ("images", "masks"):
            (root / kind / name).mkdir(parents=True)
        for number in range(3):
            picture = np.full((40, 50, 3), 60 + 120 * label + number, np.uint8)
            Image.fromarray(picture).save(root / "images" / name / f"{number}.png")
            mask = np.zeros((40, 50), bool)
            mask[10:30, 15:35] = True
            np.save(root / "masks" / name / f"{number}.npy", mask)
    return root


def test_a_folder_and_the_same_folder_as_a_set_of_the_hub_hold_the_same_images(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    files, classes = image_folder(folder / "images", SMALL)
    hub, names = hub_images(str(folder / "images"), "train", SMALL)
    assert classes == names == ("cat", "dog")
    assert torch.equal(files.factors.shape, hub.factors.shape)
    assert torch.equal(files.pixels, hub.pixels)
    assert torch.equal(hub.select(torch.tensor([5, 0])).pixels, files.pixels[[5, 0]])
    assert hub.sha256() == hub_images(str(folder / "images"), "train", SMALL)[0].sha256()
    assert hub.sha256() != hub.select(slice(2)).sha256()


def test_images_that_are_not_cut_to_one_size_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="cuts no square"):
        image_folder(folder / "images", AS_IT_IS)


def test_what_is_no_set_of_images_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could not be had from the hub"):
        hub_images(str(tmp_path), "train", SMALL)
    with pytest.raises(ValueError, match="no folder of images for each class"):
        image_folder(tmp_path, SMALL)


def table_of(labels: list[int | None], images: list[bytes]) -> Any:
    """A set of the hub, with these labels of two classes and files of images."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    columns = {"image": [{"bytes": each, "path": None} for each in images], "label": labels}
    return datasets.Dataset.from_dict(columns, features=features)


def png(**options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(**({"mode": "RGB", "size": (40, 40)} | options)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("hidden", [-1, None])
def test_a_split_whose_labels_are_hidden_is_refused(
    hidden: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of([0, hidden, hidden], [png()] * 3)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    with pytest.raises(
        ValueError, match=r"zoo, split test: 2 of 3 images have no label .* another split"
    ):
        hub_images("zoo", "test", SMALL)


def test_an_image_of_the_hub_is_decoded_as_those_in_files_and_named_if_it_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deep = png(mode="I;16", color=257 * 90)
    table = table_of([0, 1, 1], [png(color=(1, 2, 3)), deep, b"<html>"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    images, _ = hub_images("zoo", "train", SMALL)
    assert images.read(slice(1))[0, :, 0, 0].tolist() == [1, 2, 3]
    assert images.read(slice(1, 2)).unique().tolist() == [90]
    with pytest.raises(ValueError, match=r"image 2 of the set cannot be read .* it is a web page"):
        images.read(slice(None))


def test_photographs_of_the_hub_are_turned_as_the_camera_was_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG", exif=exif)
    table = table_of([0], [file.getvalue()])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: table)
    images, _ = hub_images("zoo", "train", Preprocessing(None, 32))
    theirs = np.asarray(table[0]["image"].convert("RGB"))  # 32 high, 40 wide
    assert np.array_equal(images.read(slice(1))[0].movedim(0, -1).numpy(), theirs[:, 4:36])


def test_an_ensemble_is_fitted_to_a_folder_with_masks_or_with_counterfactuals_and_found_by_its_name(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "my.safetensors"
    own = ["--images", str(folder / "images"), "--size", "32", "--backbone", "timm:resnet10t"]
    short = ["--epochs", "0", "--steps", "1", "--batch-size", "4", "--no-frozen-norms"]
    command = ["fit", *own, *short, "--out", str(out)]
    masks = ["--masks", str(folder / "masks"), "--n-counterfactuals", "8"]
    assert cli.main([*command, *masks]) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert f"--model ensemble:{out}" in shown.out
    assert "masks: 0 of 6 are empty" in shown.err
    first = load_model(f"ensemble:{out}")
    assert first.module(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    assert not out.with_suffix(".checkpoint").exists()

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (9, 3, 32, 32), generator=generator, dtype=torch.uint8)
    made = ImageSet(pixels, Factors.independent(9, 2, generator), torch.arange(9))
    made.save(tmp_path / "set.safetensors")
    given = ["--counterfactuals", str(tmp_path / "set.safetensors")]
    assert cli.main([*command, *given]) == 0, capsys.readouterr().err
    assert load_model(f"ensemble:{out}").weights_sha256 != first.weights_sha256

    for odd, message in (
        (
            replace(made, factors=Factors.aligned(torch.arange(9) % 3)),
            "labels from 0 to 2; expected",
        ),
        (replace(made, reader=InMemory(made.pixels[..., :16, :16])), "images of 16 x 16 pixels"),
    ):
        odd.save(tmp_path / "odd.safetensors")
        odd_given = ["--counterfactuals", str(tmp_path / "odd.safetensors")]
        assert cli.main([*command, *odd_given]) == 2
        assert message in capsys.readouterr().err

    assert cli.main([*command, "--real-only"]) == 0, capsys.readouterr().err
    assert not isinstance(load_model(f"ensemble:{out}").module, InvariantEnsemble)


def test_a_network_that_knows_only_classes_of_in9_is_scored_on_it() -> None:
    torch.manual_seed(0)
    known = Pretrained(
        spec="ensemble:mine",
        module=nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2)),
        weights_sha256="w",
        preprocessing=SMALL,
        n_classes=2,
        classes=("08_fish", "01_bird"),
    )
    images = torch.rand(50, 3, 4, 4)
    suite = OFFICIAL_SUITES["in9"]
    with torch.no_grad():
        decided = decide_in9(with_outputs_of(known, suite).module(images)).argmax(dim=1)
        expected = torch.tensor([8, 1])[known.module(images).argmax(dim=1)]
    assert torch.equal(decided, expected)
    assert len(decided.unique()) == 2
    with pytest.raises(ValueError, match="knows classes that in9-official does not, such as cat"):
        with_outputs_of(replace(known, classes=("cat", "01_bird")), suite)
    with pytest.raises(ValueError, match="cue-conflict-official does not, such as 08_fish"):
        with_outputs_of(known, OFFICIAL_SUITES["cue-conflict"])


def test_fit_says_what_is_wrong_with_its_input(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--images", str(folder / "images"), "--out", str(tmp_path / "x.safetensors")]
    for path in (folder / "masks").rglob("*.npy"):
        empty = folder / "empty" / path.relative_to(folder / "masks")
        empty.parent.mkdir(parents=True, exist_ok=True)
        np.save(empty, np.zeros((40, 50), np.uint8))
    for extra, message in (
        ([], "name one of --counterfactuals, --masks and --real-only"),
        (["--masks", str(tmp_path)], "has no mask"),
        (["--masks", str(folder / "empty")], "are empty, '0.npy' the first"),
        (["--masks", str(tmp_path), "--schedule", "linear"], "schedule must be one of"),
    ):
        assert cli.main([*command, *extra]) == 2
        assert message in capsys.readouterr().err
