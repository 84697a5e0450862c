"""Everything runs forward and backward on the `meta` device.

A tensor that a function makes on the CPU by itself does not mix with those of another device,
so these tests find, without a GPU, what would fail on one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cgn import losses
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.models.cgn import CGN, CGNConfig, binarise, compose
from cgn.models.critic import Critic, VGGFeatures, packed
from cgn.models.encoder import ShapeEncoder
from cgn.models.imagenet.biggan import MULTIPLIERS, BigGAN, BigGANConfig
from cgn.models.imagenet.cgn import ImageNetCGN, ImageNetConfig
from cgn.quality.fidelity import InceptionProbabilities
from cgn.segmentation.u2net import U2Net, saliency
from cgn.training.gan import GANTraining
from cgn.training.imagenet import ImageNetTraining
from cgn.training.imagenet_config import ImageNetTrainConfig
from cgn.training.patches import draw_patches, patch_grid
from cgn.training.small import TrainConfig, Training, prepare
from classifiers import MODELS
from classifiers.networks.small import outputs

SIZES_PX = (32, 64)
CGNS = {
    **{
        f"{size}px": CGNConfig(n_classes=3, image_size_px=size, width=8, tile_px=tile)
        for size, tile in ((32, 16), (64, 32))
    },
    "released": CGNConfig(n_classes=10, image_size_px=32, released=True),
}


def on_meta(*shape: int) -> Tensor:
    return torch.rand(*shape, device="meta", requires_grad=True)


def meta_factors(n: int) -> Factors:
    return Factors.aligned(torch.zeros(n, dtype=torch.int64, device="meta"))


def reached(module: nn.Module) -> bool:
    return all(w.grad is not None for w in module.parameters() if w.requires_grad)


@pytest.mark.parametrize("name", CGNS)
def test_every_cgn_runs_forth_and_back_on_any_device(name: str) -> None:
    cgn = CGN(CGNS[name]).to("meta")
    parts = cgn(meta_factors(4), torch.Generator().manual_seed(0))
    (parts.image().sum() + parts.probability.sum()).backward()
    size = CGNS[name].image_size_px
    assert parts.image().shape == (4, 3, size, size)
    assert parts.image().device.type == "meta"
    assert reached(cgn)


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_the_critic_runs_forth_and_back_on_any_device(size_px: int) -> None:
    critic = Critic(3, size_px, width=8).to("meta")
    images = on_meta(4, 3, size_px, size_px)
    scores = critic(packed(images), meta_factors(2).shape).scores
    scores.sum().backward()
    assert scores.shape == (2,)
    assert images.grad is not None
    assert reached(critic)


@pytest.mark.parametrize("canvas_px", [16, 32])
def test_the_encoder_runs_forth_and_back_on_any_device(canvas_px: int) -> None:
    encoder = ShapeEncoder(3, canvas_px, width=8, noise_size=6).to("meta")
    posterior = encoder(on_meta(4, 1, canvas_px, canvas_px), meta_factors(4).shape)
    noise = posterior.sample(on_meta(4, posterior.mean.shape[1]))
    noise.sum().backward()
    assert noise.shape == (4, 6)
    assert reached(encoder)


@pytest.mark.parametrize("size_px", MULTIPLIERS)
def test_every_biggan_runs_forth_and_back_on_any_device(size_px: int) -> None:
    config = BigGANConfig(resolution_px=size_px, width=8, n_classes=3, noise_size=4)
    network = BigGAN(config).to("meta")
    images = network(on_meta(2, 4), meta_factors(2).shape, 0.37)
    images.sum().backward()
    assert images.shape == (2, 3, size_px, size_px)
    # Biases of the last layer's other outputs apart, all weights have part in the colours.
    assert reached(network)


def test_the_saliency_network_runs_forth_and_back_on_any_device() -> None:
    network, images = U2Net(8).to("meta"), on_meta(2, 3, 64, 64)
    network(images).sum().backward()
    assert images.grad is not None
    assert reached(network)
    assert saliency(network.eval(), images).device.type == "meta"


def test_the_imagenet_cgn_runs_forth_and_back_on_any_device() -> None:
    config = ImageNetConfig(n_classes=3, image_size_px=32, width=8, noise_size=4, saliency_width=8)
    cgn = ImageNetCGN(config).to("meta")
    parts = cgn(meta_factors(2), torch.Generator().manual_seed(0), truncation=0.5)
    (parts.image().sum() + parts.mask.sum()).backward()
    assert parts.image().device.type == "meta"
    assert reached(cgn)
    assert cgn.for_sampling()(meta_factors(2)).image().shape == (2, 3, 32, 32)


def test_the_features_of_textures_run_forth_and_back_on_any_device() -> None:
    images = on_meta(2, 3, 64, 64)
    maps = VGGFeatures(None).to("meta")(images)
    torch.stack([each.sum() for each in maps]).sum().backward()
    assert [tuple(each.shape[1:]) for each in maps] == [
        (64, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
        (512, 8, 8),
    ]
    assert images.grad is not None


def test_the_network_of_the_inception_score_runs_on_any_device() -> None:
    with torch.device("meta"):
        network = InceptionProbabilities(None)
    assert network(on_meta(2, 3, 64, 64)).shape == (2, 1000)


def test_a_step_of_the_imagenet_training_runs_on_any_device() -> None:
    sizes = BigGANConfig(resolution_px=16, width=8, n_classes=3, noise_size=4)
    config = ImageNetConfig(n_classes=3, image_size_px=16, width=8, noise_size=4, saliency_width=8)
    settings = ImageNetTrainConfig(images_per_step=2)
    cgn, real, features = ImageNetCGN(config), BigGAN(sizes), VGGFeatures(None)
    run = ImageNetTraining(cgn, real, features, settings, "meta")
    terms = run.train_step(run.draw(torch.Generator().manual_seed(0)))
    assert {term.device.type for term in terms.values()} == {"meta"}


LOSSES: dict[str, Callable[[], Tensor]] = {
    "adversarial": lambda: losses.adversarial(on_meta(4)),
    "critic_hinge": lambda: losses.critic_hinge(on_meta(4), on_meta(4)),
    "mask_entropy": lambda: losses.mask_entropy(on_meta(4, 1, 16, 16)),
    "reconstruction": lambda: losses.reconstruction(on_meta(4, 1, 8, 8), on_meta(4, 1, 8, 8)),
    "divergence": lambda: losses.divergence(on_meta(4, 6), on_meta(4, 6)),
    "colours": lambda: losses.colours(
        on_meta(4, 3, 16, 16), on_meta(4, 3, 16, 16), on_meta(4, 1, 16, 16), meta_factors(4).shape
    ),
    "gram": lambda: losses.gram(on_meta(4, 3, 8, 8)).sum(),
    "difference": lambda: losses.difference(on_meta(4, 3, 8, 8), on_meta(4, 3, 8, 8)),
    "perceptual": lambda: losses.perceptual([on_meta(4, 3, 8, 8)], [on_meta(4, 3, 8, 8)]),
    "mask_area": lambda: losses.mask_area(on_meta(4, 1, 8, 8)),
    "mask_edge": lambda: losses.mask_edge(on_meta(4, 1, 8, 8), 2),
    "mask_outline": lambda: losses.mask_outline(on_meta(4, 1, 8, 8)),
    "background_saliency": lambda: losses.background_saliency(on_meta(4, 1, 8, 8)),
    "style": lambda: losses.style([on_meta(8, 3, 8, 8)]),
    "binarise": lambda: binarise(on_meta(4, 1, 8, 8)).sum(),
    "compose": lambda: compose(*(on_meta(4, c, 8, 8) for c in (1, 3, 3))).sum(),
}


def test_patches_are_cut_on_any_device() -> None:
    chosen = draw_patches(2, torch.Generator().manual_seed(0)).to("meta")
    grid = patch_grid(on_meta(2, 3, 64, 64), on_meta(2, 1, 64, 64), chosen)
    assert grid.shape == (2, 3, 64, 64)
    assert grid.device.type == "meta"


def test_every_public_loss_is_tested_here() -> None:
    public = {
        name
        for name, function in vars(losses).items()
        if getattr(function, "__module__", None) == losses.__name__ and not name.startswith("_")
    }
    assert public <= LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_runs_forth_and_back_on_any_device(name: str) -> None:
    loss = LOSSES[name]()
    loss.backward()
    assert loss.shape == ()
    assert loss.device.type == "meta"


def test_a_training_step_runs_on_any_device() -> None:
    pixels = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    images = ImageSet(pixels, Factors.aligned(torch.arange(6) % 3), torch.arange(6))
    config = TrainConfig(steps=2, batch_size=4, width=8)
    run = Training(prepare(images, 32), 3, config, "meta")
    terms = run.train_steps(2, torch.Generator().manual_seed(0))
    assert {term.device.type for term in terms.values()} == {"meta"}


@pytest.mark.parametrize("size_px", SIZES_PX)
def test_a_gan_and_its_training_step_run_on_any_device(size_px: int) -> None:
    run = GANTraining(3, size_px, TrainConfig(steps=2, batch_size=4, width=8), "meta")
    images = torch.rand(4, 3, size_px, size_px, device="meta")
    run.train_step(images, meta_factors(4).shape, on_meta(4, 32))
    assert reached(run.gan)
    assert reached(run.critic)


@pytest.mark.parametrize("size_px", SIZES_PX)
@pytest.mark.parametrize("name", MODELS)
def test_every_classifier_and_objective_runs_forth_and_back_on_any_device(
    name: str, size_px: int
) -> None:
    recipe = MODELS[name]
    network = recipe.network(3, size_px).to("meta")
    batch = torch.rand(4, 3, size_px, size_px, device="meta"), meta_factors(4)
    loss = recipe.objective(network, dict.fromkeys(recipe.trains_on, batch))
    loss.backward()
    assert loss.shape == ()
    assert reached(network)
    for logits in outputs(network, batch[0]).values():
        assert logits.shape == (4, 3)
