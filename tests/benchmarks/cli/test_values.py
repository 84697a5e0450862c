"""Words of the command line that cannot be meant are refused at once, in one line."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from torchvision.models import VGG16_Weights

from benchmarks import cli
from benchmarks.cli.models import model_names, resolve_models
from benchmarks.suites import get_suite
from cgn.counterfactuals.shards import SetConfig
from cgn.io.schema import RANGES
from cgn.models.critic import VGG_WEIGHTS, VGGFeatures
from cgn.training.imagenet_config import ImageNetLossWeights, ImageNetTrainConfig
from cgn.training.small import LossWeights, TrainConfig
from classifiers import MODELS
from classifiers.ensemble_config import EnsembleConfig
from classifiers.networks.backbones import Backbone

TRAIN = "train cgn --suite in9"
IMAGENET = f"{TRAIN} --scale imagenet --u2net random:8"
FIT = "fit --images FOLDER --real-only --out FOLDER/new.safetensors"
DRAW = "counterfactuals --weights FILE --out FOLDER/new"
REFUSED = [
    *(
        f"{TRAIN} --seed {n}"
        for n in ("-1", "4294967296", "1.5", "nan", "one", "99999999999999999999")
    ),
    *(f"{TRAIN} --ema-decay {n}" for n in ("2", "1", "-0.1", "nan", "inf")),
    *(f"{TRAIN} --width {n}" for n in ("1000000", "0", "-8", "1e3")),
    *(f"{TRAIN} --batch-size {n}" for n in ("0", "-2", "7", "10000000")),
    *(f"{TRAIN} --steps {n}" for n in ("0", "-1", "1" + 5_000 * "0")),
    *(f"{TRAIN} --learning-rate {n}" for n in ("0", "-1", "nan", "inf", "1e9")),
    *(f"{TRAIN} --weights.style {n}" for n in ("-1", "nan", "inf")),
    *(f"{TRAIN} --tile-px {n}" for n in ("0", "-1", "1000000")),
    *(f"{TRAIN} --correlation {n}" for n in ("0", "2", "nan", "-1")),
    *(
        f"{TRAIN} --out {path}"
        for path in ("/", "FOLDER", "''", "FILE/a.safetensors", "FOLDER/a.png")
    ),
    *(
        f"{TRAIN} --out {path}"
        for path in ("FOLDER/a.csv", "FOLDER/a.checkpoint", "FOLDER/a", "FOLDER/")
    ),
    *(f"{TRAIN} --textures {path}" for path in ("FILE", "FOLDER/none", "''")),
    *(f"{TRAIN} --data {path}" for path in ("FOLDER/none", "''", "~nobody-of-this-name/a")),
    *(f"{IMAGENET} --vgg {word}" for word in ("nope", "''", "DEFAULT")),
    *(f"{IMAGENET} --truncation {n}" for n in ("0", "1.5", "nan")),
    *(f"{IMAGENET} --images-per-step {n}" for n in ("0", "-1", "100000000000")),
    *(f"{IMAGENET} --biggan {word}" for word in ("nope", "FOLDER", "''", "random:0:0", "hub:a")),
    *(
        f"{TRAIN} --scale imagenet --u2net {word}"
        for word in ("nope", "FOLDER", "random:x", "random:")
    ),
    *(f"--suite in9 --model erm --seeds {n}" for n in ("0", "-1", "1.5", "100000000")),
    *(f"--suite in9 --model {names}" for names in ("''", ",", "erm,", ",erm", "erm,,cgn", "' '")),
    *(f"--suite {names} --model erm" for names in ("''", ",", "in9,", "../in9", "in9/..")),
    *(f"--suite in9 --model erm --results {path}" for path in ("FILE", "''", "FILE/a")),
    "--suite in9 --model erm --protocol ''",
    "check --against ''",
    "check --summary FOLDER",
    "check --summary FILE/a.md",
    *(f"report --out {path}" for path in ("/", "FOLDER", "''", "FOLDER/runs.csv", "FILE/a.html")),
    *(f"list --readme {path}" for path in ("FOLDER", "FOLDER/none", "''")),
    *(f"compare erm {name}" for name in ("''", "..", "../../..", "' '")),
    *(f"compare erm cgn --source {name}" for name in ("''", "..", "../..", "/etc")),
    "data ''",
    "--suite in9 --model=--",
    "--suite=-- --model erm",
    "report --out=--",
    "train cgn --suite in9,wildlife-mnist",
    "quality --suite in9,in9,wildlife-mnist",
    "train classifier --suite in9 --model erm,cgn --out FOLDER/new --results FOLDER/results",
    "data mnist --offline --folder FILE",
    *(f"{FIT} --size {n}" for n in ("0", "-1", "1000000", "7", "nan")),
    *(f"{FIT} --ratio {n}" for n in ("0", "-1", "nan", "inf", "1e9")),
    *(f"{FIT} --epochs {n}" for n in ("-1", "1.5", "nan")),
    *(f"{FIT} --ema-decay {n}" for n in ("1", "-1", "nan")),
    *(f"{FIT} --backbone {name}" for name in ("nope", "''", "timm:nope", "timm:")),
    f"{FIT} --size 32 --backbone timm:vit_tiny_patch16_224",
    f"{FIT} --size 100 --backbone timm:swin_tiny_patch4_window7_224",
    *(
        f"fit --real-only --images {p} --out FOLDER/a.safetensors"
        for p in ("FILE", "FOLDER/none", "''")
    ),
    *(
        f"fit --images FOLDER --masks {p} --out FOLDER/a.safetensors"
        for p in ("FILE", "FOLDER/none")
    ),
    *(
        f"fit --images FOLDER --counterfactuals {p} --out FOLDER/a.safetensors"
        for p in ("FOLDER", "no")
    ),
    *(
        f"fit --images FOLDER --real-only --out {p}"
        for p in ("/", "FOLDER", "FILE/a", "FOLDER/a.png")
    ),
    *(f"{DRAW} --n {n}" for n in ("0", "-1", "nan", "1e9")),
    *(f"{DRAW} --n 1 --jpeg-quality {n}" for n in ("0", "101", "-1")),
    *(f"{DRAW} --n 1 --seed {n}" for n in ("-1", "18446744073709551616")),
    DRAW,
    "counterfactuals --weights FILE --out FILE --n 1",
    "counterfactuals --weights FOLDER --out FOLDER/new --n 1",
    *(f"quality --suite in9 --weights {path}" for path in ("FOLDER", "FOLDER/none", "''")),
    "quality --suite in9 --seed -1",
    "quality --suite in9 --scale imagenet --weights FILE --truncation 0",
    "quality --suite in9 --scale imagenet --weights FILE --real FILE",
]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub is asked, and the cache of the user is left alone."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("words", REFUSED, ids=lambda words: words[:90])
def test_what_cannot_be_meant_is_refused_in_one_line_and_leaves_nothing(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    (folder / "class").mkdir(parents=True)
    (tmp_path / "file").write_text("nothing")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    text = words.replace("FOLDER", str(folder)).replace("FILE", str(tmp_path / "file"))
    assert cli.main(shlex.split(text)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("bench.py: ")
    assert shown.err.count("\n") == 1
    assert len(shown.err) < 1_200
    left = {path for path in tmp_path.rglob("*") if "cache" not in path.relative_to(tmp_path).parts}
    assert sorted(left) == before
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "config",
    [TrainConfig, LossWeights, ImageNetTrainConfig, ImageNetLossWeights, EnsembleConfig, SetConfig],
)
def test_every_number_of_a_config_has_a_range_and_its_default_lies_within(config: type) -> None:
    for field in fields(config):
        if field.type in ("int", "float") and "Weights" not in config.__name__:
            assert field.name in RANGES
    config(**{"n": 1} if config is SetConfig else {})


@pytest.mark.parametrize("value", [float("nan"), "7", None, True, 1.5])
def test_a_whole_number_is_nothing_else(value: object) -> None:
    with pytest.raises(ValueError, match="seed must"):
        TrainConfig(seed=value)  # type: ignore[arg-type]


def test_weights_of_losses_are_no_debts() -> None:
    with pytest.raises(ValueError, match="the weight of style must lie in"):
        LossWeights(style=-1.0)


def test_the_names_of_vggs_weights_are_torchvisions() -> None:
    assert list(VGG_WEIGHTS) == [each.name for each in VGG16_Weights]
    with pytest.raises(ValueError, match="VGG16 has weights IMAGENET1K_V1"):
        VGGFeatures("nope")


def test_commas_in_the_path_of_a_file_part_no_names() -> None:
    text = "erm,file:/a,b/c,d.pt#arch=timm:vit,ensemble:x,y.safetensors,efficientnet-lite0,nope"
    assert model_names(text) == [
        "erm",
        "file:/a,b/c,d.pt#arch=timm:vit",
        "ensemble:x,y.safetensors",
        "efficientnet-lite0",
        "nope",
    ]


def test_a_backbone_that_does_not_take_a_size_says_so() -> None:
    Backbone("timm:resnet10t").require_size(32)
    with pytest.raises(ValueError, match=r"takes no images of 32 pixels .*choose another `size`"):
        Backbone("timm:vit_tiny_patch16_224").require_size(32)


def test_all_models_are_those_that_need_no_weights_beyond_the_package() -> None:
    suite = get_suite("colored-mnist")
    names = {model.name for model in resolve_models("all", [suite])}
    others = MODELS.keys() - names
    assert others == {"cgn-end-to-end", "cgn-end-to-end-abduct", "cgn-released"}
    assert {model.name for model in resolve_models(",".join(others), [suite])} == others
