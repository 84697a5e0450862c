"""Weights of one's own: prepared as the architecture asks, whichever script they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import SHARED
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from benchmarks import cli
from benchmarks.cli.models import PretrainedModel
from benchmarks.cli.output import Output
from benchmarks.core.context import RunContext
from benchmarks.records.runs import read_runs
from benchmarks.suites import OFFICIAL_SUITES
from benchmarks.worlds.imagenet import class_table
from cgn.data.preprocessing import Preprocessing
from cgn.models.efficientnet import efficientnet_lite
from classifiers import load_model
from classifiers.networks.architectures import find_architectures
from classifiers.networks.input_transforms import Normalised

ARCH = "timm:test_resnet"
needs_data = pytest.mark.shared("cue-conflict", "imagenet-sample")


def small(seed: int = 0) -> nn.Module:
    """A small network of timm with seven classes."""
    import timm

    torch.manual_seed(seed)
    network: nn.Module = timm.create_model("test_resnet", num_classes=7)
    return network


@pytest.fixture
def state() -> dict[str, Tensor]:
    return dict(small().state_dict())


def stored(folder: Path, what: object, name: str = "mine.pth") -> str:
    """Write a file of weights; its spec."""
    torch.save(what, folder / name)
    return f"file:{folder / name}#arch={ARCH}"


def parameter(spec: str) -> Tensor:
    """The first weights of a network."""
    front: Any = load_model(spec).module
    first: Tensor = next(front.network.parameters()).detach()
    return first


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("lite0") / "lite0.pth"
    torch.save(efficientnet_lite(0).state_dict(), path)
    return f"file:{path}#arch=timm:tf_efficientnet_lite0"


def scores(tmp_path: Path, suite: str, spec: str, data: Path) -> dict[str, float]:
    """Run the command; percentages of the suite's own protocol."""
    results = tmp_path / "results"
    text = ["--suite", suite, "--model", spec, "--data", str(data), "--results", str(results)]
    assert cli.main([*text, "--device", "cpu"]) == 0
    rows = read_runs(results)
    rows = rows[rows["protocol"] == OFFICIAL_SUITES[suite].protocol]
    names = rows["variant"] + "_" + rows["metric"]
    return {n: round(100 * v, 1) for n, v in zip(names, rows["value"], strict=True)}


@needs_data
def test_a_file_of_lite0_scores_on_cue_conflict_as_lite0_does(
    lite0: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    found = scores(tmp_path, "cue-conflict", lite0, SHARED / "cue-conflict")
    assert found["conflict_shape_bias"] == 23.9
    assert found["conflict_texture_accuracy"] == 51.0
    assert found["agree_accuracy"] == 92.9
    (model,) = set(read_runs(tmp_path / "results")["model"])
    wanted = "resize=256&crop=224&interpolation=bicubic&mean=0.5&deviation=0.5"
    assert f"arch=timm:tf_efficientnet_lite0.in1k&{wanted}" in model


@needs_data
def test_a_file_of_lite0_scores_on_imagenet_a_as_lite0_does(
    lite0: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    table = class_table()
    for wnid in table.loc[table["imagenet_a"], "wnid"]:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / wnid).symlink_to(SHARED / "imagenet-sample" / wnid)
    found = scores(tmp_path, "imagenet-a", lite0, tmp_path / "data")
    assert found["hard_accuracy"] == 96.0


def test_what_the_row_says_of_a_file_gives_the_same_network_again(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    first = load_model(f"{stored(tmp_path, state)}&mean=0.1-0.2-0.3&interpolation=bicubic&crop=150")
    assert isinstance(first.module, Normalised)
    assert first.module.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert first.preprocessing == Preprocessing(168, 150, "bicubic")
    again = load_model(first.spec.replace("file:mine", f"file:{tmp_path}/mine"))
    assert (again.spec, again.preprocessing) == (first.spec, first.preprocessing)
    assert isinstance(again.module, Normalised)
    assert torch.equal(again.module.mean, first.module.mean)


@pytest.mark.parametrize(
    ("arch", "name", "front"),
    [
        ("timm:resnet50", "timm:resnet50.a1_in1k", (235, 224, "bicubic", 0.485)),
        ("timm:resnet50.tv_in1k", "timm:resnet50.tv_in1k", (256, 224, "bilinear", 0.485)),
        (
            "timm:vit_base_patch16_384",
            "timm:vit_base_patch16_384.augreg_in21k_ft_in1k",
            (384, 384, "bicubic", 0.5),
        ),
        ("tv:mobilenet_v2", "tv:mobilenet_v2@IMAGENET1K_V1", (256, 224, "bilinear", 0.485)),
        (
            "tv:mobilenet_v2@IMAGENET1K_V2",
            "tv:mobilenet_v2@IMAGENET1K_V2",
            (232, 224, "bilinear", 0.485),
        ),
        ("tv:efficientnet_b7", "tv:efficientnet_b7@IMAGENET1K_V1", (600, 600, "bicubic", 0.485)),
        ("tv:inception_v3", "tv:inception_v3@IMAGENET1K_V1", (342, 299, "bilinear", 0.485)),
    ],
)
def test_an_architecture_asks_for_images_as_its_configuration_has_it(
    arch: str, name: str, front: tuple[int, int, str, float]
) -> None:
    found = find_architectures(arch)[0]
    own = found.inputs.preprocessing
    assert found.name == name
    assert (own.resize_px, own.crop_px, own.interpolation, found.inputs.mean[0]) == front


@pytest.mark.parametrize("arch", ["timm:resnet50.nope", "tv:resnet50@NOPE", "tv:resnet50@DEFAULT"])
def test_a_tag_that_there_is_not_is_refused(arch: str) -> None:
    with pytest.raises(ValueError, match="of a network there is"):
        find_architectures(arch)


def test_the_inputs_of_an_inception_are_changed_as_its_published_weights_expect() -> None:
    network: Any = find_architectures("tv:inception_v3")[0].build(num_classes=3)
    assert network.transform_input


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("mean=0.5-0.5", "three numbers"),
        ("mean=red", "could not convert"),
        ("deviation=0", "deviations are positive"),
        ("crop=-3", "crop_px must be positive"),
        ("interpolation=lanczos", "interpolation must be bilinear or bicubic"),
        ("mean=0.5&mean=0.4", "names a part twice"),
    ],
)
def test_a_preparation_that_cannot_be_is_refused(
    option: str, message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(f"{stored(tmp_path, state)}&{option}")


def test_a_network_that_takes_one_size_alone_has_its_images_resized_and_the_row_says_so(
    tmp_path: Path,
) -> None:
    import timm

    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_384", num_classes=7)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    found = load_model(f"file:{tmp_path / 'vit.pth'}#arch=timm:vit_tiny_patch16_384")
    assert found.preprocessing.crop_px == 384
    helped = found.for_size(224)
    assert helped.spec == f"{found.spec}+resized384"
    with torch.inference_mode():
        assert helped.module(torch.rand(2, 3, 224, 224)).shape == (2, 7)
        grey = [torch.full((1, 3, side, side), 0.4) for side in (224, 384)]
        answers = helped.module(grey[0]), found.module(grey[1])
    assert torch.allclose(*answers, atol=1e-4)
    assert found.for_size(384) is found


def test_a_network_that_takes_any_size_sees_images_as_they_are(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    found = load_model(stored(tmp_path, state))
    assert found.for_size(224) is found


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("wrapper", ["model", "net", "state_dict", "model_state_dict", "weights"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_wrappers_around_weights_are_taken_off(
    wrapper: str, prefix: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    around = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    spec = stored(tmp_path, around | {wrapper: prefixed(state, prefix)})
    assert torch.equal(parameter(spec), next(iter(state.values())))
    assert "set=" not in load_model(spec).spec


def test_an_averaged_model_is_taken_for_its_weights(tmp_path: Path) -> None:
    average = AveragedModel(small())
    spec = stored(tmp_path, average.state_dict())
    assert torch.equal(parameter(spec), next(average.module.parameters()).detach())


def test_weights_of_before_batches_were_counted_are_read(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    older = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert load_model(stored(tmp_path, older)).n_classes == 7


@pytest.mark.parametrize(
    ("checkpoint", "names"),
    [
        (lambda a, b: {"state_dict": a, "state_dict_ema": b}, ("state_dict", "state_dict_ema")),
        (lambda a, b: {"model": a, "ema": {"module": b}}, ("model", "ema.module")),
        (lambda a, b: prefixed(a, "student.") | prefixed(b, "teacher."), ("student", "teacher")),
        (
            lambda a, b: {"state_dict": prefixed(a, "model.") | prefixed(b, "ema.module.")},
            ("state_dict.model", "state_dict.ema.module"),
        ),
        (lambda a, b: {**a, "ema": b}, (".", "ema")),
        (lambda a, b: a | prefixed(b, "ema."), (".", "ema")),
    ],
)
def test_of_several_sets_of_weights_one_has_to_be_named(
    checkpoint: Any, names: tuple[str, str], state: dict[str, Tensor], tmp_path: Path
) -> None:
    other = dict(small(1).state_dict())
    spec = stored(tmp_path, checkpoint(state, other))
    with pytest.raises(ValueError, match="2 sets of weights") as error:
        load_model(spec)
    assert f"weights: {names[0]}, {names[1]}; say which by &set=" in str(error.value)
    for name, tensors in zip(names, (state, other), strict=True):
        found = load_model(f"{spec}&set={name}")
        assert torch.equal(parameter(f"{spec}&set={name}"), next(iter(tensors.values())))
        assert f"&set={name}&" in found.spec
        assert f"the weights {name}, not" in found.note
    with pytest.raises(ValueError, match=f"no weights 'third' of {ARCH}, but {names[0]}"):
        load_model(f"{spec}&set=third")


def test_the_screen_says_what_was_taken(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = f"{stored(tmp_path, {'a': state, 'b': small(1).state_dict()})}&set=b"
    with Output().progress() as bars:
        context = RunContext(torch.device("cpu"), tmp_path, tmp_path, bars)
        list(PretrainedModel(spec).evaluations([], [0], context))
    said = " ".join(capsys.readouterr().err.split())
    assert "mine.pth: the weights b, not a; images prepared as timm:test_resnet.r160_in1k" in said
