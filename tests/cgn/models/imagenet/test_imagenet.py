from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from imagenet_networks import TINY, tiny_biggan, tiny_cgn, tiny_u2net
from support import published_tensors
from torch import Tensor, nn

from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.io.cache import weights_sha256
from cgn.io.weights import load_tensors, save_tensors
from cgn.models.imagenet.cgn import MASK_MARGIN, ImageNetCGN, ImageNetConfig, truncated_noise
from cgn.models.imagenet.pretrained import (
    authors_state,
    fetch,
    load_authors,
    load_biggan,
    load_imagenet_cgn,
    load_u2net,
)


def labels(*values: int) -> Tensor:
    return torch.tensor(values)


def seeded_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def cgn() -> ImageNetCGN:
    return tiny_cgn()[0].eval()


@torch.no_grad()
def test_before_training_the_textures_are_those_of_the_real_images() -> None:
    cgn, real = tiny_cgn()
    noise = truncated_noise(2, TINY.noise_size, seeded_generator())
    parts = cgn.draw(noise, Factors.aligned(labels(1, 4)))
    assert torch.equal(parts.foreground, real(noise, labels(1, 4)))
    assert torch.equal(parts.background, parts.foreground)


@pytest.mark.parametrize("factor", Factors._fields)
@torch.no_grad()
def test_a_label_moves_the_part_it_is_for_and_no_other(cgn: ImageNetCGN, factor: str) -> None:
    before = Factors.aligned(labels(1, 4))
    after = before._replace(**{factor: labels(2, 0)})
    one, other = (cgn(factors, seeded_generator()) for factors in (before, after))
    part = {"shape": "mask", "texture": "foreground"}.get(factor, factor)
    for name in ("mask", "foreground", "background"):
        assert torch.equal(getattr(one, name), getattr(other, name)) == (name != part)


@torch.no_grad()
def test_masks_are_nowhere_wholly_object_or_background(cgn: ImageNetCGN) -> None:
    mask = cgn(Factors.aligned(labels(0, 1, 2)), seeded_generator()).mask
    assert mask.min() >= MASK_MARGIN
    assert mask.max() <= 1 - MASK_MARGIN
    certain = copy.deepcopy(cgn)
    nn.init.constant_(certain.saliency.outconv.bias, 100)  # type: ignore[arg-type]
    mask = certain.mask(torch.zeros(1, TINY.noise_size), labels(0))
    assert torch.allclose(mask, torch.tensor(1 - MASK_MARGIN))


@torch.no_grad()
def test_what_is_made_for_sampling_draws_the_same(cgn: ImageNetCGN) -> None:
    expected = cgn(Factors.aligned(labels(0, 3)), seeded_generator(), truncation=0.5)
    fast = cgn.for_sampling(torch.float32, truncation=0.5)
    found = fast(Factors.aligned(labels(0, 3)), seeded_generator())
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
    rough = cgn.for_sampling(truncation=0.5)(Factors.aligned(labels(0, 3)), seeded_generator())
    assert (rough.image() - expected.image()).abs().mean() < 0.02
    assert cgn.truncation == 1


def test_noise_is_cut_at_twice_the_truncation() -> None:
    noise = truncated_noise(2_000, 4, seeded_generator(), 0.5)
    assert noise.abs().max() <= 1
    assert noise.abs().max() > 0.95
    whole = truncated_noise(2_000, 4, seeded_generator(), 1.0)
    assert torch.allclose(noise, 0.5 * whole)


def test_an_image_set_of_it_has_independent_labels_and_its_masks(cgn: ImageNetCGN) -> None:
    images = sample(cgn, 5, seed=0, batch_size=2)
    assert images.pixels.shape == (5, 3, 16, 16)
    assert images.masks is not None
    assert len({tuple(each.tolist()) for each in images.factors}) == 3


def test_the_saliency_network_neither_learns_nor_leaves_evaluation_mode() -> None:
    cgn = tiny_cgn()[0].train()
    assert cgn.shape.training
    assert not cgn.saliency.training
    assert not any(weight.requires_grad for weight in cgn.saliency.parameters())
    assert all(w.requires_grad for m in cgn.mechanisms().values() for w in m.parameters())


def test_a_saved_cgn_draws_the_same_when_it_is_loaded(tmp_path: Path) -> None:
    cgn = tiny_cgn()[0].eval()
    cgn.save(tmp_path / "cgn.safetensors", {"seed": 3})
    loaded, about = ImageNetCGN.load(tmp_path / "cgn.safetensors")
    assert about["seed"] == 3
    assert loaded.config == cgn.config
    with torch.no_grad():
        pair = [each(Factors.aligned(labels(0, 1)), seeded_generator()) for each in (cgn, loaded)]
    assert (pair[0].image() - pair[1].image()).abs().max() < 1 / 255
    assert not loaded.saliency.outconv.weight.requires_grad
    assert loaded.shape.embeddings.weight.requires_grad
    assert load_imagenet_cgn(tmp_path / "cgn.safetensors").config == cgn.config


def test_variances_beyond_half_precision_survive(tmp_path: Path) -> None:
    cgn = tiny_cgn()[0]
    cgn.shape.generator.bn.running_vars.fill_(1e6)
    cgn.save(tmp_path / "cgn.safetensors", {})
    loaded, _ = ImageNetCGN.load(tmp_path / "cgn.safetensors")
    assert (loaded.shape.generator.bn.running_vars == 1e6).all()


def test_a_file_without_a_cgn_and_one_of_another_size_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="holds no ImageNet CGN"):
        ImageNetCGN.load(tmp_path / "other.safetensors")
    cgn = tiny_cgn()[0]
    cgn.save(tmp_path / "cgn.safetensors", {})
    tensors, about = load_tensors(tmp_path / "cgn.safetensors")
    about["imagenet_cgn"]["width"] = 8
    save_tensors(tmp_path / "cgn.safetensors", tensors, about)
    with pytest.raises(ValueError, match="weights and config differ"):
        ImageNetCGN.load(tmp_path / "cgn.safetensors")


def test_the_authors_file_has_exactly_the_published_tensors() -> None:
    expected = published_tensors()
    with torch.device("meta"):
        cgn = ImageNetCGN(ImageNetConfig())
        state = authors_state(cgn, type(cgn.shape)(cgn.config.biggan))
    assert len(expected) == 3206
    assert {name: str(tuple(t.shape)) for name, t in state.items()} == expected


@pytest.mark.parametrize("prefix", ["", "module."])  # as written by one GPU and by several
def test_the_authors_file_is_read_and_written_back(tmp_path: Path, prefix: str) -> None:
    cgn, real = tiny_cgn()
    for seed, name in enumerate(("shape", "texture", "background"), 5):
        setattr(cgn, name, tiny_biggan(seed))
    state = authors_state(cgn, real)
    torch.save({prefix + name: t for name, t in state.items()}, tmp_path / "cgn.pth")
    loaded, real_loaded = load_authors(tmp_path / "cgn.pth")
    assert weights_sha256(loaded) == weights_sha256(cgn)
    assert weights_sha256(real_loaded) == weights_sha256(real)
    again = authors_state(loaded, real_loaded)
    assert list(again) == list(state)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert loaded.config.swapped_statistics
    plain, _ = load_authors(tmp_path / "cgn.pth", swapped_statistics=False)
    assert asdict(plain.config) == asdict(loaded.config) | {"swapped_statistics": False}


def broken(state: dict[str, Tensor], how: str) -> object:
    if how == "a tensor too few":
        return {name: t for name, t in state.items() if name != "f_text.embeddings.weight"}
    if how == "a tensor too many":
        return state | {"f_hair.weight": torch.zeros(1)}
    if how == "a network too few":
        return {name: t for name, t in state.items() if not name.startswith("u2net")}
    return {"epoch": 3} | state


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("a tensor too few", "f_text of .*cgn.pth does not fit"),
        ("a tensor too many", "'f_hair.weight' of .* is no tensor of the original ImageNet CGN"),
        ("a network too few", "u2net of .* holds no U²-Net"),
        ("a number", "holds no plain state dict"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, how: str, message: str) -> None:
    cgn, real = tiny_cgn()
    torch.save(broken(authors_state(cgn, real), how), tmp_path / "cgn.pth")
    with pytest.raises(ValueError, match=message):
        load_authors(tmp_path / "cgn.pth")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    torch.save(tiny_biggan().state_dict(), tmp_path / "biggan.bin")
    content = (tmp_path / "biggan.bin").read_bytes()
    (tmp_path / "biggan.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"biggan\.bin is cut short"):
        load_biggan([str(tmp_path / "biggan.bin")])


def test_published_networks_are_found_behind_a_path_and_a_url(tmp_path: Path) -> None:
    biggan, u2net = tiny_biggan(3), tiny_u2net(3)
    torch.save(biggan.state_dict(), tmp_path / "biggan.bin")
    torch.save(u2net.state_dict(), tmp_path / "u2net.pth")
    missing = str(tmp_path / "nothing.bin")
    loaded = load_biggan([missing, str(tmp_path / "biggan.bin")])  # the first cannot be had
    assert loaded.config == biggan.config
    assert weights_sha256(loaded) == weights_sha256(biggan)
    url = (tmp_path / "u2net.pth").as_uri()
    kept = fetch(url, tmp_path / "kept")
    assert kept == tmp_path / "kept" / "u2net.pth"
    assert weights_sha256(load_u2net(str(kept))) == weights_sha256(u2net)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["u2net.pth"]


def test_what_cannot_be_had_is_said_with_all_places_that_were_tried(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"there is no file .*a\.bin.*; cannot fetch file:.*b\.bin"
    ):
        load_biggan([str(tmp_path / "a.bin"), (tmp_path / "b.bin").as_uri()])
    for source in ("hub:somewhere", "hub:a/b/../../c.pth", "hub:../b/c.pth", "hub:a/b/"):
        with pytest.raises(ValueError, match="not of the form hub:OWNER/NAME/FILE"):
            fetch(source)
    for url in ("https://example.org", "https://example.org/", "https://example.org/.."):
        with pytest.raises(ValueError, match="names no file; give the address of one"):
            fetch(url, tmp_path)
    with pytest.raises(ValueError, match="published BigGANs draw 128, 256, 512 pixels, not 64"):
        load_biggan(size_px=64)


def test_networks_of_random_weights_are_made_in_the_size_that_is_asked_for() -> None:
    assert load_biggan(["random:32:4"]).config.resolution_px == 32
    assert load_u2net("random:8").stage1.rebnconvin.conv_s1.out_channels == 8
    with pytest.raises(ValueError, match="as in random:256:128"):
        load_biggan(["random:32"])
