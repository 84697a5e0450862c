from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from support import SHARED
from torch import Tensor

from cgn.data.factors import Factors
from cgn.io.cache import weights_sha256
from cgn.io.weights import save_tensors
from cgn.models.cgn import CGN, CGNConfig, MechanismOutputs, binarise, compose, load_released
from cgn.models.mechanisms import Mechanism, ShapeMechanism, TextureMechanism, UpBlock, roll

RELEASED = SHARED / "released-weights/cgn_colored_mnist.pth"
needs_released = pytest.mark.shared("released-weights")
# Mean object colours of 300 samples a class from these weights, as measured with the original
# code, digit by digit.
RELEASED_COLOURS = [
    (203, 31, 82),
    (24, 117, 122),
    (227, 214, 38),
    (15, 91, 196),
    (228, 129, 52),
    (148, 55, 176),
    (64, 226, 189),
    (243, 208, 208),
    (210, 226, 63),
    (164, 38, 27),
]
CONFIG = CGNConfig(n_classes=5, image_size_px=32, width=8, noise_size=6, tile_px=16)


@pytest.fixture
def cgn() -> CGN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CGN(CONFIG).eval()


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@torch.no_grad()
def draw(cgn: CGN, number: int, n: int = 12) -> MechanismOutputs:
    drawn: MechanismOutputs = cgn(
        Factors.independent(n, cgn.config.n_classes, seed(7)), seed(number)
    )
    return drawn


def parts(number: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = seed(number)
    return (
        torch.rand(4, 1, 6, 6, generator=generator),
        torch.rand(4, 3, 6, 6, generator=generator),
        torch.rand(4, 3, 6, 6, generator=generator),
    )


def test_compose_commutes_with_a_change_of_range() -> None:
    mask, foreground, background = parts()
    image = compose(mask, foreground, background)
    tanh = compose(mask, 2 * foreground - 1, 2 * background - 1)
    assert torch.allclose(tanh, 2 * image - 1, atol=1e-6)


def test_compose_with_an_inverted_mask_swaps_object_and_background() -> None:
    mask, foreground, background = parts()
    swapped = compose(1 - mask, background, foreground)
    assert torch.allclose(swapped, compose(mask, foreground, background), atol=1e-6)


def test_compose_of_equal_parts_does_not_depend_on_the_mask() -> None:
    mask, foreground, _ = parts()
    assert torch.allclose(compose(mask, foreground, foreground), foreground, atol=1e-6)


def test_a_binary_mask_copies_pixels_exactly() -> None:
    mask, foreground, background = parts()
    mask = (mask > 0.5).float()
    expected = torch.where(mask.bool(), foreground, background)
    assert torch.equal(compose(mask, foreground, background), expected)


def test_a_binarised_mask_is_binary_and_binarising_it_again_changes_nothing() -> None:
    once = binarise(torch.linspace(0, 1, 101))
    assert set(once.tolist()) == {0.0, 1.0}
    assert torch.equal(binarise(once), once)


def test_binarising_passes_the_gradient_unchanged() -> None:
    probability = torch.linspace(0, 1, 11, requires_grad=True)
    slopes = torch.linspace(-3, 3, 11)
    (gradient,) = torch.autograd.grad((slopes * binarise(probability)).sum(), probability)
    assert torch.equal(gradient, slopes)


def test_one_state_of_the_generator_gives_one_set_of_images(cgn: CGN) -> None:
    assert torch.equal(draw(cgn, 0).image(), draw(cgn, 0).image())
    assert not torch.equal(draw(cgn, 0).image(), draw(cgn, 1).image())


def test_drawing_with_a_generator_leaves_the_global_one_alone(cgn: CGN) -> None:
    before = torch.get_rng_state()
    draw(cgn, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_are_binary_and_agree_with_their_probability(cgn: CGN) -> None:
    drawn = draw(cgn, 0)
    assert set(drawn.mask.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(drawn.mask, (drawn.probability > 0.5).float())


def test_all_parts_lie_between_0_and_1(cgn: CGN) -> None:
    for part in (*draw(cgn, 0), draw(cgn, 0).image()):
        assert part.min() >= 0
        assert part.max() <= 1


@pytest.mark.parametrize("name", Factors._fields)
def test_a_label_moves_its_own_mechanism_and_no_other(cgn: CGN, name: str) -> None:
    labels = torch.zeros(6, dtype=torch.int64)
    factors = Factors.aligned(labels)
    other = factors._replace(**{name: labels + 1})
    with torch.no_grad():
        before, after = cgn(factors, seed(0)), cgn(other, seed(0))
    drawn = {"shape": "probability", "texture": "foreground", "background": "background"}
    for factor, part in drawn.items():
        unmoved = torch.equal(getattr(before, part), getattr(after, part))
        assert unmoved == (factor != name)


def test_the_mechanisms_draw_from_noise_of_their_own(cgn: CGN) -> None:
    cgn.background.load_state_dict(cgn.texture.state_dict())
    with torch.no_grad():
        drawn = cgn(Factors.aligned(torch.zeros(4, dtype=torch.int64)), seed(0))
    foreground, background = (part.flatten(2).sort().values for part in drawn[1:3])
    assert not torch.allclose(foreground, background, atol=1e-3)  # whatever the origin


def mechanisms(cgn: CGN) -> dict[str, Mechanism]:
    return {name: module for name, module in cgn.named_children() if isinstance(module, Mechanism)}


@pytest.mark.parametrize("name", Factors._fields)
@pytest.mark.parametrize("training", [True, False])
def test_a_sample_does_not_depend_on_its_batch_neighbours(
    cgn: CGN, name: str, training: bool
) -> None:
    mechanism = mechanisms(cgn)[name].train(training)
    noise = torch.randn(6, CONFIG.noise_size, generator=seed(1))
    labels = torch.arange(6) % CONFIG.n_classes
    with torch.no_grad():
        together = mechanism(noise, labels)
        alone = torch.cat([mechanism(noise[[i]], labels[[i]]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-5)


def with_exemplars(cgn: CGN) -> ShapeMechanism:
    """A shape mechanism whose every code is certain and whose every pose is another."""
    shape = cgn.shape
    assert isinstance(shape, ShapeMechanism)
    n_classes, n_exemplars, _ = shape.codes.shape
    shape.codes = torch.randn(shape.codes.shape, generator=seed(5))
    shape.deviations = torch.zeros_like(shape.deviations)
    shape.poses = torch.rand(n_classes, n_exemplars, 3, generator=seed(6)) / 2 + 0.2
    return shape


def test_a_shape_follows_the_code_and_the_pose_it_is_told(cgn: CGN) -> None:
    shape, noise = with_exemplars(cgn), torch.randn(3, CONFIG.noise_size, generator=seed(1))
    labels, exemplars = torch.tensor([0, 2, 2]), torch.tensor([[3, 1], [0, 7], [5, 5]])
    with torch.no_grad():
        drawn = shape(noise, labels, exemplars)
        codes, poses = shape.codes[labels, exemplars[:, 0]], shape.poses[labels, exemplars[:, 1]]
        assert torch.equal(drawn, shape.place(shape.outline(codes, labels), poses))
        assert not torch.allclose(drawn, shape(noise, labels, exemplars.flip(1)), atol=1e-3)


def test_shapes_without_deviation_come_from_the_exemplars_and_not_from_the_noise(cgn: CGN) -> None:
    shape, labels = with_exemplars(cgn), torch.zeros(2, dtype=torch.int64)
    noises = torch.randn(2, 2, CONFIG.noise_size, generator=seed(1))
    with torch.no_grad():
        assert torch.equal(shape(noises[0], labels), shape(noises[1], labels))


def test_a_cgn_draws_from_many_exemplars_of_a_class(cgn: CGN) -> None:
    with_exemplars(cgn)
    with torch.no_grad():
        drawn = cgn(Factors.aligned(torch.zeros(40, dtype=torch.int64)), seed(0))
    assert len(drawn.mask.flatten(1).unique(dim=0)) > 35


def test_a_mask_that_was_drawn_before_is_taken_as_it_is(cgn: CGN) -> None:
    factors = Factors.aligned(torch.zeros(2, dtype=torch.int64))
    probability = torch.rand(2, 1, 32, 32, generator=seed(0))
    with torch.no_grad():
        assert torch.equal(cgn(factors, seed(0), probability).probability, probability)
        assert torch.equal(
            cgn(factors, seed(0), probability).foreground, cgn(factors, seed(0)).foreground
        )


def test_a_texture_is_one_tile_repeated(cgn: CGN) -> None:
    tile = CONFIG.tile_px
    for texture in (draw(cgn, 0).foreground, draw(cgn, 0).background):
        assert torch.equal(texture, texture.roll(tile, dims=2))
        assert torch.equal(texture, texture.roll(tile, dims=3))
        assert not torch.allclose(texture, texture.roll(tile // 2, dims=2), atol=1e-3)


def test_an_origin_rolls_the_texture_and_changes_no_number(cgn: CGN) -> None:
    noise = torch.randn(3, CONFIG.noise_size, generator=seed(1))
    labels, origin = torch.arange(3), torch.tensor([[0, 0], [3, 0], [5, 15]])
    with torch.no_grad():
        still, moved = cgn.texture(noise, labels), cgn.texture(noise, labels, origin)
    for before, after, (row, column) in zip(still, moved, origin.tolist(), strict=True):
        assert torch.equal(after, before.roll((-row, -column), dims=(1, 2)))


def test_a_full_turn_is_no_roll() -> None:
    image = torch.rand(2, 3, 4, 4, generator=seed(0))
    assert torch.equal(roll(image, torch.tensor([[4, 8], [8, 0]])), image)


def test_a_texture_can_be_one_plain_colour_white_included() -> None:
    mechanism = TextureMechanism(2, 32, width=8, noise_size=6, tile_px=16)
    with torch.no_grad():
        mechanism.plain.weight.zero_()
        mechanism.plain.bias.copy_(torch.tensor([9.0, -9.0, 0.0, -1.0, -1.0, -1.0]))
        drawn = mechanism(torch.randn(3, 6), torch.tensor([0, 1, 1]))
    assert torch.equal(drawn[:, 0], torch.ones(3, 32, 32))
    assert torch.equal(drawn[:, 1], torch.zeros(3, 32, 32))
    assert torch.allclose(drawn[:, 2], torch.full((3, 32, 32), 0.5))


def test_a_tile_has_no_seams(cgn: CGN) -> None:
    """Rolling the first map rolls the tile: no place in it is special."""
    mechanism = cgn.texture
    assert isinstance(mechanism, TextureMechanism)
    condition = torch.randn(2, 2 * CONFIG.noise_size, generator=seed(0))
    maps = torch.randn(2, 2 * CONFIG.width, 8, 8, generator=seed(1))

    def tile(first: Tensor) -> Tensor:
        for block in mechanism.blocks:
            assert isinstance(block, UpBlock)
            first = block(first, block.modulate(condition))
        drawn: Tensor = mechanism.last(first)
        return drawn

    with torch.no_grad():
        moved, still = tile(maps.roll((3, 5), dims=(2, 3))), tile(maps)
    assert torch.allclose(moved, still.roll((6, 10), dims=(2, 3)), atol=1e-5)


def test_a_tile_that_does_not_fill_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="tiles of 64 px do not fill 32 px"):
        CGN(CGNConfig(n_classes=2, image_size_px=32, tile_px=64))


@pytest.mark.parametrize("size_px", [8, 24])
def test_sizes_that_no_doubling_reaches_are_refused(size_px: int) -> None:
    with pytest.raises(ValueError, match=f"16, 32, 64, … pixels, got {size_px}"):
        CGN(CGNConfig(n_classes=2, image_size_px=size_px, tile_px=size_px))


def test_a_saved_cgn_comes_back_within_half_precision(cgn: CGN, tmp_path: Path) -> None:
    cgn.save(tmp_path / "cgn.safetensors", {"seed": 3})
    loaded, metadata = CGN.load(tmp_path / "cgn.safetensors")
    assert loaded.config == CONFIG
    assert metadata["seed"] == 3
    for name, tensor in cgn.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().float())
    assert (draw(loaded, 0).foreground - draw(cgn, 0).foreground).abs().max() < 1 / 255


def test_saving_a_loaded_cgn_again_loses_nothing(cgn: CGN, tmp_path: Path) -> None:
    hashes = []
    for _ in range(2):
        cgn.save(tmp_path / "cgn.safetensors", {})
        cgn, _ = CGN.load(tmp_path / "cgn.safetensors")
        hashes.append(weights_sha256(cgn))
    assert hashes[0] == hashes[1]


def test_a_loaded_cgn_is_in_evaluation_mode(cgn: CGN, tmp_path: Path) -> None:
    cgn.train().save(tmp_path / "cgn.safetensors", {})
    assert not CGN.load(tmp_path / "cgn.safetensors")[0].training


def test_the_hash_of_weights_tells_one_number_from_another(cgn: CGN) -> None:
    before = weights_sha256(cgn)
    assert weights_sha256(cgn) == before
    with torch.no_grad():
        next(cgn.parameters())[0, 0] += 1e-3
    assert weights_sha256(cgn) != before


def test_a_file_without_a_cgn_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"weight": torch.ones(2)}, {"seed": 0})
    with pytest.raises(ValueError, match=r"holds no CGN; `train cgn`"):
        CGN.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("odd", [{"n_classes": 6}, {"depth": 3}])
def test_weights_that_differ_from_their_config_are_refused(
    cgn: CGN, odd: dict[str, int], tmp_path: Path
) -> None:
    config = asdict(cgn.config) | odd
    path = tmp_path / "x.safetensors"
    save_tensors(path, cgn.state_dict(), {"cgn": config})
    with pytest.raises(ValueError, match=r"weights and config differ|'depth' is unknown here"):
        CGN.load(path)


def write_nothing(path: Path) -> None:
    assert not path.exists()


def write_no_pickle(path: Path) -> None:
    path.write_bytes(b"these are no weights")


def write_other_names(path: Path) -> None:
    torch.save({"layer.weight": torch.ones(2)}, path)


def write_too_few(path: Path) -> None:
    torch.save({"label_emb.weight": torch.ones(10, 10)}, path)


def write_a_number(path: Path) -> None:
    torch.save(3, path)


def write_empty(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    "write",
    [write_nothing, write_no_pickle, write_other_names, write_too_few, write_a_number, write_empty],
)
def test_files_that_are_not_the_released_weights_are_refused(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / "ckp.pth")
    with pytest.raises(ValueError, match=r"ckp\.pth is no MNIST CGN of the original authors"):
        load_released(tmp_path / "ckp.pth")


@needs_released
def test_truncated_released_weights_are_refused(tmp_path: Path) -> None:
    whole = RELEASED.read_bytes()
    (tmp_path / "ckp.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no MNIST CGN of the original authors"):
        load_released(tmp_path / "ckp.pth")


@pytest.fixture(scope="module")
def released_parts() -> MechanismOutputs:
    """50 samples a class, class by class."""
    cgn, generator = load_released(RELEASED), seed(0)
    with torch.inference_mode():
        drawn = [cgn(Factors.aligned(torch.full((50,), digit)), generator) for digit in range(10)]
    return MechanismOutputs(*(torch.cat(part) for part in zip(*drawn, strict=True)))


@needs_released
def test_the_released_cgn_draws_on_black(released_parts: MechanismOutputs) -> None:
    assert released_parts.background.mean() <= 1 / 255


@needs_released
def test_the_released_cgn_draws_objects_in_the_colours_measured_with_the_original_code(
    released_parts: MechanismOutputs,
) -> None:
    mask, foreground = released_parts.mask, released_parts.foreground
    colours = (mask * foreground).sum(dim=(2, 3)) / mask.sum(dim=(2, 3))
    means = 255 * colours.view(10, 50, 3).mean(dim=1)
    assert (means - torch.tensor(RELEASED_COLOURS)).abs().max() < 20


@needs_released
def test_the_released_cgn_draws_masks_as_large_as_digits(released_parts: MechanismOutputs) -> None:
    area = released_parts.mask.mean(dim=(1, 2, 3)).view(10, 50)
    assert area.min() > 0.02
    assert area.max() < 0.35
    assert area.mean(dim=1).argmin() == 1  # a one has the least ink


@needs_released
def test_the_released_cgn_survives_a_save(tmp_path: Path) -> None:
    before = load_released(RELEASED)
    before.save(tmp_path / "cgn.safetensors", {})
    after, _ = CGN.load(tmp_path / "cgn.safetensors")
    assert (draw(after, 0).image() - draw(before, 0).image()).abs().mean() < 1 / 255
