from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.suites import SUITES
from cgn.data.factors import ByClass, Factors
from cgn.data.image_set import ImageSet, InMemory
from cgn.io.cache import weights_sha256
from cgn.models.cgn import CGN
from cgn.models.mechanisms import ShapeMechanism
from cgn.training.adversarial import draw_pairs
from cgn.training.loop import seeded
from cgn.training.small import (
    PRESETS,
    LossWeights,
    StepNoise,
    TrainConfig,
    Training,
    prepare,
    train,
)

CONFIG = TrainConfig(steps=4, batch_size=8, width=8, tile_px=16, checkpoint_steps=2)
N_CLASSES = 3


@pytest.fixture
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (30, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, Factors.aligned(torch.arange(30) % N_CLASSES), torch.arange(30))


def trained(images: ImageSet, config: TrainConfig = CONFIG, **others: Any) -> str:
    return weights_sha256(train(images, N_CLASSES, config, **others))


def stop_after(step: int) -> Callable[[int, int, dict[str, float]], None]:
    def progress(done: int, steps: int, terms: dict[str, float]) -> None:
        if done == step:
            raise InterruptedError

    return progress


def test_one_seed_gives_one_cgn_bit_for_bit(images: ImageSet) -> None:
    assert trained(images) == trained(images)


def test_another_seed_gives_another_cgn(images: ImageSet) -> None:
    assert trained(images) != trained(images, replace(CONFIG, seed=1))


def test_training_leaves_the_callers_random_state_alone(images: ImageSet) -> None:
    before = torch.get_rng_state()
    trained(images)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_random_state_does_not_reach_the_training(images: ImageSet) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = trained(images)
        torch.manual_seed(2)
        other = trained(images)
    assert one == other


def test_training_reads_no_label_but_the_class(images: ImageSet) -> None:
    shape = images.factors.shape
    blind = replace(images, factors=Factors(shape, shape * 0 - 1, shape * 0 - 1), masks=None)
    assert trained(blind) == trained(images)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_an_interrupted_run_ends_with_the_same_weights(
    images: ImageSet, step: int, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "deep" / "run.pt"
    with pytest.raises(InterruptedError):
        trained(images, checkpoint=checkpoint, progress=stop_after(step))
    done: list[int] = []
    resumed = trained(images, checkpoint=checkpoint, progress=lambda n, *_: done.append(n))
    assert resumed == trained(images)
    assert done == ([1, 2, 3, 4] if step == 2 else [3, 4])


def test_a_run_that_was_resumed_leaves_the_callers_random_state_alone(
    images: ImageSet, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedError):
        trained(images, checkpoint=tmp_path / "run.pt", progress=stop_after(3))
    before = torch.get_rng_state()
    trained(images, checkpoint=tmp_path / "run.pt")
    assert torch.equal(torch.get_rng_state(), before)


def test_checkpoints_change_no_weight(images: ImageSet, tmp_path: Path) -> None:
    assert trained(images, checkpoint=tmp_path / "run.pt") == trained(images)


def test_checkpoints_leave_no_part_behind(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        trained(images, checkpoint=tmp_path / "run.pt", progress=stop_after(3))
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.parametrize(
    "other",
    [
        replace(CONFIG, seed=1),
        replace(CONFIG, steps=5),
        replace(CONFIG, weights=LossWeights(style=9.0)),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_with_the_remedy(
    images: ImageSet, other: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(InterruptedError):
        trained(images, other, checkpoint=tmp_path / "run.pt", progress=stop_after(3))
    with pytest.raises(ValueError, match="made with other settings, images or weights; delete it"):
        trained(images, checkpoint=tmp_path / "run.pt")


def test_a_checkpoint_of_other_images_is_refused(images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        trained(images, checkpoint=tmp_path / "run.pt", progress=stop_after(3))
    others = replace(images, reader=InMemory(255 - images.pixels))
    with pytest.raises(ValueError, match="other settings, images or weights; delete it"):
        trained(others, checkpoint=tmp_path / "run.pt")


def test_progress_tells_every_step_and_every_loss(images: ImageSet) -> None:
    told: list[tuple[int, int]] = []
    names: set[str] = set()

    def progress(done: int, steps: int, terms: dict[str, float]) -> None:
        told.append((done, steps))
        names.update(terms)

    trained(images, progress=progress)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert names == {field.name for field in fields(LossWeights)} | {"critic"}


def test_the_averaged_weights_are_returned_ready_to_sample(images: ImageSet) -> None:
    cgn = train(images, N_CLASSES, CONFIG)
    assert isinstance(cgn, CGN)
    assert not cgn.training
    assert (cgn.config.n_classes, cgn.config.image_size_px) == (N_CLASSES, 16)
    assert all(weight.isfinite().all() for weight in cgn.parameters())


@pytest.fixture
def run(images: ImageSet) -> Training:
    """A run before its first step."""
    with seeded(0):
        return Training(prepare(images, 32), N_CLASSES, CONFIG, "cpu")


def first(run: Training) -> StepNoise:
    return run.draw(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["cgn", "averaged", "encoder", "critic"])
def test_a_step_moves_every_network(run: Training, name: str) -> None:
    before = weights_sha256(getattr(run, name))
    run.train_step(*first(run))
    assert weights_sha256(getattr(run, name)) != before
    assert run.step == 1


def test_a_step_of_the_generator_sends_no_gradient_into_the_critic(run: Training) -> None:
    terms = run.losses(*first(run))
    del terms["critic"]
    CONFIG.weights.total(terms).backward(inputs=[*run.cgn.parameters(), *run.encoder.parameters()])
    assert all(weight.grad is None for weight in run.critic.parameters())
    reached = {name.split(".")[0] for name, w in run.cgn.named_parameters() if w.grad is not None}
    assert reached == {"shape", "texture", "background"}
    assert all(weight.grad is not None for weight in run.encoder.parameters())


def test_a_step_of_the_critic_sends_no_gradient_into_the_generator(run: Training) -> None:
    terms = run.losses(*first(run))
    before = weights_sha256(run.critic)
    run.critic_adam.step_down(terms["critic"])
    assert weights_sha256(run.critic) != before
    learners = *run.cgn.parameters(), *run.encoder.parameters()
    assert all(weight.grad is None for weight in learners)


def test_steps_taken_together_are_those_taken_one_by_one(images: ImageSet) -> None:
    found, hashes, curves = prepare(images, 32), set(), []
    for sizes in ([1, 1, 1, 1], [4], [3, 1]):
        with seeded(0) as generator:
            run = Training(found, N_CLASSES, CONFIG, "cpu")
            told = [run.train_steps(n, generator) for n in sizes]
        hashes.add(weights_sha256(run.averaged))
        curves.append(torch.cat([torch.stack([*each.values()]) for each in told], dim=1))
    assert len(hashes) == 1
    assert curves[0].shape == (len(fields(LossWeights)) + 1, 4)
    assert curves[0].equal(curves[1])
    assert curves[0].equal(curves[2])


def test_a_checkpoint_written_on_a_gpu_goes_on_without_one(
    images: ImageSet, tmp_path: Path
) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(InterruptedError):
        trained(images, checkpoint=path, progress=stop_after(3))
    as_if_written_on_cuda(path)
    assert trained(images, checkpoint=path) == trained(images)


def as_if_written_on_cuda(path: Path) -> None:
    """Make a checkpoint's storages say cuda:0, and its optimisers' settings as on CUDA."""
    state = torch.load(path, weights_only=True)
    for part in state["parts"].values():
        for group in part.get("param_groups", []):
            group |= {"capturable": True, "fused": True, "lr": torch.tensor(group["lr"])}
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    (pickled,) = (name for name in files if name.endswith("data.pkl"))
    # BINUNICODE: the length as four bytes, then the text.
    old, new = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    assert old in files[pickled]
    files[pickled] = files[pickled].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(path, weights_only=True)


def test_the_average_lies_between_the_old_and_the_new_weights(run: Training) -> None:
    old = next(run.averaged.shape.parameters()).clone()
    run.train_step(*first(run))
    new, mean = (next(cgn.shape.parameters()) for cgn in (run.cgn, run.averaged))
    low, high = torch.minimum(old, new) - 1e-6, torch.maximum(old, new) + 1e-6
    assert ((low <= mean) & (mean <= high)).all()
    assert not torch.equal(old, new)


def squares(sizes_px: list[int]) -> ImageSet:
    """White squares on black, one a class, each class of another size."""
    pixels = torch.zeros(len(sizes_px), 3, 32, 32, dtype=torch.uint8)
    for image, size in zip(pixels, sizes_px, strict=True):
        image[:, 16 - size // 2 : 16 + size // 2, 16 - size // 2 : 16 + size // 2] = 255
    labels = torch.arange(len(sizes_px))
    return ImageSet(pixels, Factors.aligned(labels), labels)


@pytest.mark.parametrize("soft_edges", [False, True])
def test_no_pixel_of_a_soft_edge_is_object_or_background(soft_edges: bool) -> None:
    images = squares([8, 14])
    found = prepare(images, 16, soft_edges=soft_edges)
    # One pixel on either side of the edge belongs to its rim.
    objects, backgrounds = found.regions
    for of_image, size in zip(objects, (8, 14), strict=True):
        assert of_image.sum() == (size - 2 * soft_edges) ** 2
    for of_image, size in zip(backgrounds, (8, 14), strict=True):
        assert of_image.sum() == 32**2 - (size + 2 * soft_edges) ** 2
    assert (found.images.bool().any(dim=1, keepdim=True) == objects).all()
    assert found.outlines.equal(prepare(images, 16).outlines)


def test_an_object_that_is_all_rim_keeps_it() -> None:
    images = squares([14, 14])
    images.pixels[0] = 0
    images.pixels[0, :, 12:14, 10:22] = 255
    found = prepare(images, 16, soft_edges=True)
    assert found.regions[0].sum(dim=(1, 2, 3)).tolist() == [24, 144]


def test_shapes_are_drawn_at_the_poses_of_training_images_of_their_own_class() -> None:
    sizes = [8, 14, 20]
    cgn = train(squares(sizes), N_CLASSES, CONFIG)
    assert isinstance(cgn.shape, ShapeMechanism)
    poses = cgn.shape.poses
    assert poses.shape[:2] == (N_CLASSES, cgn.config.n_exemplars)
    assert torch.equal(poses[:, :, 2], (torch.tensor(sizes) / 32)[:, None].expand(poses.shape[:2]))


def test_every_image_of_a_class_is_remembered_about_as_often(images: ImageSet) -> None:
    found = prepare(images, 32)._replace(poses=torch.arange(30.0)[:, None].expand(30, 3))
    with seeded(0):
        run = Training(found, N_CLASSES, CONFIG, "cpu")
    run.store_exemplars(torch.Generator().manual_seed(0))
    assert isinstance(run.averaged.shape, ShapeMechanism)
    for label, poses in enumerate(run.averaged.shape.poses):
        of_class, times = poses[:, 0].unique(return_counts=True)
        assert torch.equal(of_class.long() % N_CLASSES, torch.full((10,), label))
        assert times.max() - times.min() <= 1


def test_a_class_without_images_keeps_the_shapes_it_was_made_with(images: ImageSet) -> None:
    cgn = train(images, N_CLASSES + 1, CONFIG)
    assert isinstance(cgn.shape, ShapeMechanism)
    assert (cgn.shape.codes[N_CLASSES] == 0).all()
    assert (cgn.shape.codes[:N_CLASSES] != 0).any(dim=2).all()


def ones(names: list[str]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(1.0) for name in names}


NAMES = [field.name for field in fields(LossWeights)]


def test_the_total_is_the_weighted_sum() -> None:
    weights = LossWeights()
    expected = sum(getattr(weights, name) for name in NAMES)
    assert weights.total(ones(NAMES)) == pytest.approx(expected)
    assert weights.total(ones(NAMES) | {"style": torch.tensor(3.0)}) == pytest.approx(
        expected + 2 * weights.style
    )


def test_a_loss_without_a_weight_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"losses and weights differ in: beauty$"):
        LossWeights().total(ones([*NAMES, "beauty"]))


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_without_a_loss_is_an_error_that_names_it(name: str) -> None:
    terms = ones(NAMES)
    del terms[name]
    with pytest.raises(ValueError, match=rf"losses and weights differ in: {name}$"):
        LossWeights().total(terms)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "must be positive"),
        ({"checkpoint_steps": 0}, "must be positive"),
        ({"batch_size": 7}, "batch_size must be even, got 7"),
    ],
)
def test_nonsense_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **settings)


@pytest.mark.parametrize("world", PRESETS)
def test_every_preset_belongs_to_a_world_and_fits_its_images(world: str) -> None:
    worlds = {suite.world.name: suite.world for suite in SUITES.values()}
    assert world in worlds
    size_px = worlds[world].image_size_px
    config, n_classes = replace(PRESETS[world], width=8), len(worlds[world].classes)
    pixels = torch.zeros(n_classes, 3, size_px, size_px, dtype=torch.uint8)
    images = ImageSet(pixels, Factors.aligned(torch.arange(n_classes)), torch.arange(n_classes))
    Training(prepare(images, 32), n_classes, config, "meta")


def test_pairs_are_of_one_class_and_every_class_is_drawn() -> None:
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 2, 2])
    index = draw_pairs(ByClass(labels), 200, torch.Generator().manual_seed(0))
    first, second = labels[index].chunk(2)
    assert torch.equal(first, second)
    assert set(index.tolist()) == set(range(8))


def test_classes_are_drawn_as_often_as_they_occur() -> None:
    labels = torch.tensor([0] * 10 + [2] * 30)  # class 1 does not occur
    drawn = labels[draw_pairs(ByClass(labels), 8_000, torch.Generator().manual_seed(0))]
    assert drawn.bincount(minlength=3).tolist()[1] == 0
    assert (drawn == 2).double().mean() == pytest.approx(0.75, abs=0.03)


def test_the_partners_of_a_class_are_drawn_alike() -> None:
    images = ByClass(torch.zeros(5, dtype=torch.int64))
    index = draw_pairs(images, 10_000, torch.Generator().manual_seed(0))
    assert index[5_000:].bincount(minlength=5).min() > 850
