"""The one loop: interrupted or not, in one process or two, it ends with the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from cgn.data.factors import Factors
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet, InMemory
from cgn.data.preprocessing import Preprocessing
from cgn.device.distributed import dist_info
from cgn.device.precision import supports_bfloat16
from cgn.io.weights import load_tensors, save_tensors
from classifiers import fit as fitting
from classifiers import load_model
from classifiers.checkpoints import describe_join, load_ensemble, save_ensemble
from classifiers.data import N_NUMBERS, flip_and_crop
from classifiers.ensemble_config import EnsembleConfig
from classifiers.fit import fit
from classifiers.networks.backbones import Backbone
from classifiers.networks.small import InvariantEnsemble, SmallCNN, embed_in_label_space, outputs
from classifiers.recipes import Recipe
from classifiers.schedules import adamw_cosine, adamw_one_cycle, sgd_thirds

N_CLASSES, SIZE_PX = 3, 32
TINY_ENSEMBLE = Backbone(
    "timm:resnet10t",
    (("channels", (8, 8, 8, 8)), ("stem_type", "deep"), ("stem_width", 4)),
    heads=True,
)


def noise(seed: int, n: int = 20) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 3, SIZE_PX, SIZE_PX), generator=generator, dtype=torch.uint8)
    factors = Factors.independent(n, N_CLASSES, generator)
    return ImageSet(pixels, factors, torch.arange(n))


SETS = {"biased": noise(0), "recombined": noise(1)}


def recipe(**changes: Any) -> Recipe:
    config = EnsembleConfig(epochs=0, steps=4, batch_size=8, learning_rate=0.05)
    # Sums in bfloat16 may differ in their last bits from one call to the next.
    defaults: dict[str, Any] = {"network": TINY_ENSEMBLE, "bfloat16": False}
    return replace(config.recipe(), **(defaults | changes))


def weights(made_by: Recipe, **changes: Any) -> dict[str, Tensor]:
    network = fit(made_by, SETS, n_classes=N_CLASSES, seed=0, **changes)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "changes",
    [
        {"frozen_norms": False, "ema_decay": 0.9, "schedule": adamw_cosine},
        {"schedule": sgd_thirds, "augment": flip_and_crop},
    ],
)
def test_a_fit_that_was_killed_ends_with_the_weights_of_one_that_was_not(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_STEPS", 2)
    path = tmp_path / "fit.checkpoint"
    whole = weights(recipe(**changes))

    def kill(done: int, total: int) -> None:
        if done == 3:  # a step after the checkpoint, which has to be done again
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights(recipe(**changes), checkpoint=path, progress=kill)
    assert path.is_file()
    steps: list[int] = []
    resumed = weights(
        recipe(**changes), checkpoint=path, progress=lambda done, _: steps.append(done)
    )
    assert steps == [3, 4]
    assert same(whole, resumed)
    assert not path.exists()


def test_the_checkpoint_of_another_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_STEPS", 1)
    path = tmp_path / "fit.checkpoint"

    def kill(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights(recipe(), checkpoint=path, progress=kill)
    with pytest.raises(ValueError, match="made with other settings, images or weights"):
        weights(recipe(ratio=0.5), checkpoint=path)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_fit_computes_in_bfloat16_only_where_recipe_and_device_allow_it(bfloat16: bool) -> None:
    kinds: set[torch.dtype] = set()

    def watched(network: nn.Module, batches: Any) -> Tensor:
        logits = network(batches["biased"][0])
        kinds.add(logits.dtype)
        return logits.float().sum()  # type: ignore[no-any-return]

    watching = recipe(objective=watched, steps=1, network=SmallCNN, nuisances=(), bfloat16=bfloat16)
    weights(watching)
    low = bfloat16 and supports_bfloat16("cpu")
    assert kinds == {torch.bfloat16 if low else torch.float32}


def share_a_fit(rank: int, folder: str) -> None:
    """What each of two processes does: its share of the fit; the first keeps the weights."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    with dist_info().main_process_first():
        order = dist_info().rank
    found = weights(recipe(augment=flip_and_crop))
    if rank == 0:
        torch.save(found, f"{folder}/weights.pt")
    with pytest.raises(ValueError, match="cannot be shared evenly by 2 processes"):
        weights(recipe(batch_size=7))
    assert order == rank
    distributed.destroy_process_group()


def test_two_processes_end_with_the_weights_of_one_to_rounding(tmp_path: Path) -> None:
    spawn(share_a_fit, args=(str(tmp_path),), nprocs=2)
    shared = torch.load(tmp_path / "weights.pt", weights_only=True)
    alone = weights(recipe(augment=flip_and_crop))
    first = TINY_ENSEMBLE(N_CLASSES, SIZE_PX).state_dict()
    assert max((alone[name] - first[name]).abs().max() for name in ("classifiers.0.weight",)) > 0.01
    for name, tensor in alone.items():
        assert torch.allclose(shared[name], tensor, atol=1e-5), name


def test_frozen_norms_keep_their_statistics_and_others_do_not() -> None:
    for frozen in (True, False):
        found = weights(recipe(frozen_norms=frozen))
        counts = [t for name, t in found.items() if name.endswith("num_batches_tracked")]
        assert counts
        assert all(count == (0 if frozen else 4) for count in counts)


def test_the_ratio_decides_how_many_counterfactuals_go_with_a_real_image() -> None:
    sizes: list[tuple[int, int]] = []

    def counted(network: nn.Module, batches: Any) -> Tensor:
        sizes.append((len(batches["biased"][0]), len(batches["recombined"][0])))
        return network(batches["biased"][0]).sum()  # type: ignore[no-any-return]

    for ratio in (1.0, 0.5, 2.0):
        weights(recipe(objective=counted, steps=1, ratio=ratio))
    assert sizes == [(8, 8), (8, 4), (8, 16)]


def test_epochs_of_the_ensemble_are_rounds_through_the_real_images() -> None:
    config = EnsembleConfig(epochs=3, batch_size=10)
    assert config.recipe().steps_for({"biased": 25, "recombined": 1_000}) == 8


def test_an_average_lags_behind_the_last_weights() -> None:
    begin = [weights(recipe(steps=1, learning_rate=0.0))]
    last, mean = (weights(recipe(steps=12, ema_decay=decay)) for decay in (0.0, 0.9))
    name = "classifiers.0.weight"
    moved = [(each[name] - begin[0][name]).norm() for each in (last, mean)]
    assert 0 < moved[1] < 0.85 * moved[0]


def test_the_papers_schedule_divides_by_ten_after_each_third() -> None:
    optimiser, schedule = sgd_thirds([nn.Parameter(torch.zeros(1))], 0.1, 0.0, 9)
    rates = []
    for _ in range(9):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert rates == pytest.approx([0.1] * 3 + [0.01] * 3 + [0.001] * 3)


@pytest.mark.parametrize("schedule", [adamw_cosine, adamw_one_cycle])
def test_modern_schedules_rise_to_the_learning_rate_and_fall_to_nothing(schedule: Any) -> None:
    optimiser, over_time = schedule([nn.Parameter(torch.zeros(1))], 0.1, 0.0, 100)
    rates = []
    for _ in range(100):
        rates.append(over_time.get_last_lr()[0])
        optimiser.step()
        over_time.step()
    assert rates[0] < 0.03
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert rates[-1] < 1e-3


def test_augmented_images_do_not_depend_on_their_neighbours_and_stay_in_range() -> None:
    images = noise(2, 6).images()
    numbers = torch.rand(6, N_NUMBERS, generator=torch.Generator().manual_seed(0))
    whole = flip_and_crop(images, numbers)
    alone = torch.cat([flip_and_crop(images[i : i + 1], numbers[i : i + 1]) for i in range(6)])
    assert torch.allclose(whole, alone, atol=1e-6)
    assert 0 <= whole.min() <= whole.max() <= 1
    assert not torch.allclose(whole, images)


def test_a_crop_of_the_whole_image_is_the_image_or_its_mirror_image() -> None:
    images = noise(3, 2).images()
    numbers = torch.tensor([[0.2, 1.0, 0.5, 0.5, 0.5], [0.8, 1.0, 0.5, 0.5, 0.5]])
    cut = flip_and_crop(images, numbers)
    assert torch.allclose(cut[0], images[0], atol=1e-5)
    assert torch.allclose(cut[1], images[1].flip(-1), atol=1e-5)


@pytest.mark.parametrize(
    ("assumed", "spec"),
    [
        ("texture-background", "ensemble:my.safetensors#nuisances=texture-background&sha256="),
        ("background", "ensemble:my.safetensors#nuisances=background&sha256="),
        ("none", "ensemble:my.safetensors#sha256="),
    ],
)
def test_an_ensemble_answers_the_same_after_it_was_saved_and_loaded(
    assumed: str, spec: str, tmp_path: Path
) -> None:
    config = EnsembleConfig(
        backbone="timm:resnet10t", epochs=0, steps=1, batch_size=4, nuisances=assumed
    )
    of = config.recipe()
    sets = {"biased": noise(0, 200), "recombined": noise(1, 200)}  # some keep their own texture
    network = fit(of, sets, n_classes=N_CLASSES, seed=0)
    save_ensemble(network, "abc", SIZE_PX, tmp_path / "my.safetensors", {"seed": 0}, of.nuisances)
    loaded, about = load_ensemble(tmp_path / "my.safetensors")
    images = noise(4, 3).images()
    with torch.no_grad():
        for name, logits in outputs(network, images).items():
            assert torch.allclose(outputs(loaded, images)[name], logits, atol=1e-5)
    assert about["classes"] == ["a", "b", "c"]
    assert about["join"] == ("mean" if assumed == "none" else "alignment")
    _, header = load_tensors(tmp_path / "my.safetensors")
    assert header["join"] == describe_join(loaded)
    by_spec = load_model(f"ensemble:{tmp_path / 'my.safetensors'}")
    assert (by_spec.n_classes, by_spec.preprocessing.crop_px) == (3, SIZE_PX)
    assert by_spec.spec.startswith(spec)


def test_only_a_network_around_a_backbone_of_timm_is_saved_as_an_ensemble(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no ensemble around a backbone of timm"):
        save_ensemble(InvariantEnsemble(3, SIZE_PX), "abc", SIZE_PX, tmp_path / "x", {})


def test_an_ensemble_whose_heads_have_fixed_weights_is_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    header = {"architecture": "resnet10t", "classes": ["a"], "size_px": 32}
    save_tensors(
        tmp_path / "old.safetensors",
        {"weight": torch.zeros(1)},
        {"ensemble": header | {"head_weights": [0.5, 0.25, 0.25]}},
    )
    with pytest.raises(ValueError, match="earlier version, whose heads had fixed weights; make it"):
        load_ensemble(tmp_path / "old.safetensors")


def test_the_baseline_has_one_head_and_answers_the_same_after_it_was_saved_and_loaded(
    tmp_path: Path,
) -> None:
    config = EnsembleConfig(backbone="timm:resnet10t", epochs=0, steps=1, batch_size=4)
    of = config.recipe(real_only=True)
    assert of.trains_on == ("biased",)
    network = fit(of, {"biased": SETS["biased"]}, n_classes=N_CLASSES, seed=0)
    save_ensemble(network, "abc", SIZE_PX, tmp_path / "plain.safetensors", {})
    loaded, about = load_ensemble(tmp_path / "plain.safetensors")
    images = noise(4, 3).images()
    with torch.no_grad():
        assert list(outputs(loaded, images)) == [""]
        assert torch.allclose(loaded(images), network.eval()(images), atol=1e-5)
    assert about["join"] is None


@pytest.mark.parametrize("heads", [True, False])
def test_a_network_of_few_classes_answers_among_many_as_it_did_and_never_with_others(
    heads: bool,
) -> None:
    few = Backbone("timm:resnet10t", heads=heads)(N_CLASSES, SIZE_PX).eval()
    places = [7, 2, 5][:N_CLASSES]
    many = embed_in_label_space(few, places, 9)
    images = noise(6, 4).images()
    with torch.no_grad():
        for name, logits in outputs(many, images).items():
            probabilities = logits.softmax(dim=1)
            expected = outputs(few, images)[name].softmax(dim=1)
            assert torch.allclose(probabilities[:, places], expected, atol=1e-5)
            assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet_nonsense", "timm has no network"),
        ("resnet50", "names no backbone"),
        ("tv:resnet18@IMAGENET1K_V1", "names no backbone|no network of timm|downloaded"),
    ],
)
def test_what_is_no_backbone_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Backbone(spec)(N_CLASSES, SIZE_PX)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "linear"}, "schedule must be one of sgd-thirds"),
        ({"augment": "mix"}, "augment must be one of none"),
        ({"ratio": 0.0}, "ratio must be positive"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleConfig(**change)


def interrupt(checkpoint: Path, sets: Mapping[str, ImageSet], made_by: Recipe) -> None:
    """Leave the checkpoint of a fit that was killed after its second step."""

    def kill(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(made_by, sets, n_classes=N_CLASSES, seed=0, checkpoint=checkpoint, progress=kill)
    assert checkpoint.is_file()


def of_other_pixels(images: ImageSet) -> ImageSet:
    pixels = images.pixels.clone()
    pixels[-1, 0, 0, 0] ^= 1
    return replace(images, reader=InMemory(pixels))


@pytest.mark.parametrize("changed", ["biased", "recombined"])
def test_a_fit_does_not_go_on_with_other_images_of_the_same_labels(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_STEPS", 1)
    path = tmp_path / "fit.checkpoint"
    interrupt(path, SETS, recipe())
    others = SETS | {changed: of_other_pixels(SETS[changed])}
    with pytest.raises(ValueError, match="with other settings, images or weights; delete it"):
        fit(recipe(), others, n_classes=N_CLASSES, seed=0, checkpoint=path)


def test_a_fit_does_not_go_on_with_the_same_files_at_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_STEPS", 1)
    for label in range(N_CLASSES):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (48, 48), (80 * label, 10 * number, 0)).save(
                tmp_path / "images" / str(label) / f"{number}.png"
            )
    path = tmp_path / "fit.checkpoint"
    small, large = (
        {"biased": image_folder(tmp_path / "images", Preprocessing(size, size))[0]}
        for size in (32, 40)
    )
    one_head = EnsembleConfig(epochs=0, steps=4, batch_size=8).recipe(real_only=True)
    one_head = replace(one_head, network=replace(TINY_ENSEMBLE, heads=False))

    def resumed(sets: Mapping[str, ImageSet]) -> nn.Module:
        return fit(one_head, sets, n_classes=N_CLASSES, seed=0, checkpoint=path)

    interrupt(path, small, one_head)
    with pytest.raises(ValueError, match="with other settings, images or weights"):
        resumed(large)
    resumed(small)


def test_a_fit_does_not_go_on_from_other_first_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_STEPS", 1)
    path = tmp_path / "fit.checkpoint"
    interrupt(path, SETS, recipe())
    began = Backbone.__call__

    def other_release(self: Backbone, n_classes: int, size_px: int) -> nn.Module:
        network = began(self, n_classes, size_px)
        with torch.no_grad():
            next(network.parameters()).mul_(2)
        return network

    monkeypatch.setattr(Backbone, "__call__", other_release)
    with pytest.raises(ValueError, match="with other settings, images or weights"):
        fit(recipe(), SETS, n_classes=N_CLASSES, seed=0, checkpoint=path)


def test_the_checkpoint_goes_only_after_the_weights_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_STEPS", 1)
    path, there = tmp_path / "fit.checkpoint", list[bool]()

    def keep(network: nn.Module) -> None:
        there.append(path.is_file())

    fit(recipe(), SETS, n_classes=N_CLASSES, seed=0, checkpoint=path, keep=keep)
    assert there == [True]
    assert not path.exists()
