from __future__ import annotations

import csv
import math
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from imagenet_networks import TINY, tiny_cgn
from pretended_cuda import pretended_cuda
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from cgn.counterfactuals.shards import SetConfig, generate
from cgn.device.distributed import ProcessGroup, own_device, team
from cgn.io.cache import weights_sha256
from cgn.models.critic import VGGFeatures
from cgn.models.imagenet.biggan import BigGAN
from cgn.models.imagenet.cgn import ImageNetCGN
from cgn.training.imagenet import BatchNoise, ImageNetTraining, train_imagenet
from cgn.training.imagenet_config import (
    IMAGENET_PRESETS,
    PARTS,
    ImageNetLossWeights,
    ImageNetTrainConfig,
    without,
)
from cgn.training.imagenet_plan import plan
from cgn.training.log import LossLog
from cgn.training.loop import EMA
from cgn.training.patches import GRID, N_BEST, PATCH_PX, draw_patches, patch_grid

CONFIG = ImageNetTrainConfig(steps=2, images_per_step=3, bfloat16=False)


def features() -> VGGFeatures:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VGGFeatures(None)


FEATURES = features()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads sum gradients in any order, and matrices otherwise than one does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def training(config: ImageNetTrainConfig = CONFIG, **others: Any) -> ImageNetTraining:
    cgn, real = tiny_cgn()
    kind = features() if config.bfloat16 else FEATURES
    return ImageNetTraining(cgn, real, kind, config, "cpu", **others)


def trained(config: ImageNetTrainConfig = CONFIG, **others: Any) -> ImageNetCGN:
    cgn, real = tiny_cgn()
    kind = features() if config.bfloat16 else FEATURES
    return train_imagenet(cgn, real, kind, config, **others)


@cache
def baseline() -> ImageNetCGN:
    """What the usual settings give; not to be changed."""
    return trained()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learned(cgn: ImageNetCGN) -> Tensor:
    return torch.cat([p.flatten() for m in cgn.mechanisms().values() for p in m.parameters()])


def start() -> Tensor:
    return learned(tiny_cgn()[0])


def test_one_seed_gives_one_cgn_and_another_another() -> None:
    assert weights_sha256(trained()) == weights_sha256(baseline())
    assert weights_sha256(trained(replace(CONFIG, seed=1))) != weights_sha256(baseline())


def stop_after(step: int) -> Any:
    def progress(done: int, steps: int, terms: dict[str, float]) -> None:
        if done == step:
            raise InterruptedError

    return progress


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_killed_run_that_is_resumed_ends_with_the_same_weights(
    tmp_path: Path, bfloat16: bool
) -> None:
    config = replace(CONFIG, bfloat16=bfloat16)
    checkpoint = tmp_path / "deep" / "run.checkpoint"
    with pytest.raises(InterruptedError):
        trained(config, checkpoint=checkpoint, progress=stop_after(1))
    done: list[int] = []
    resumed = trained(config, checkpoint=checkpoint, progress=lambda n, *_: done.append(n))
    assert done == [2]
    expected = trained(config) if bfloat16 else baseline()
    assert weights_sha256(resumed) == weights_sha256(expected)


def test_a_run_that_is_interrupted_within_a_step_goes_on_from_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(run: ImageNetTraining, batch: BatchNoise) -> Any:
        if run.step == 1:
            raise KeyboardInterrupt
        return outputs(run, batch)

    outputs = ImageNetTraining.outputs
    monkeypatch.setattr(ImageNetTraining, "outputs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=tmp_path / "run")
    monkeypatch.setattr(ImageNetTraining, "outputs", outputs)
    done: list[int] = []
    resumed = trained(checkpoint=tmp_path / "run", progress=lambda n, *_: done.append(n))
    assert done == [2]
    assert weights_sha256(resumed) == weights_sha256(baseline())


def test_nothing_is_written_while_the_weights_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(ema: EMA, step: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EMA, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_other_settings_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        trained(checkpoint=tmp_path / "run", progress=stop_after(1))
    with pytest.raises(ValueError, match="made with other settings, images or weights; delete"):
        trained(replace(CONFIG, truncation=0.5), checkpoint=tmp_path / "run")


def gradient(config: ImageNetTrainConfig) -> Tensor:
    """The gradient of a step."""
    run = training(config)
    found: list[Tensor] = []

    def note(*_: object) -> None:
        found.append(torch.cat([p.grad.flatten() for p in run.learning if p.grad is not None]))

    run.adam.register_step_pre_hook(note)
    run.train_step(run.draw(generator()))
    return found[0]


@pytest.mark.parametrize("batch_size", [2, 3])
def test_images_that_are_taken_together_give_the_same_gradient(batch_size: int) -> None:
    alone, together = (gradient(replace(CONFIG, batch_size=size)) for size in (1, batch_size))
    assert (together - alone).norm() < 1e-3 * alone.norm()


def test_keeping_normalised_maps_changes_no_gradient() -> None:
    run = training()
    draw = run.draw(generator())
    found = []
    for checkpointed in (True, False):
        for mechanism in run.cgn.mechanisms().values():
            mechanism.generator.checkpointed = checkpointed
        run._accumulate(draw)
        found.append(torch.cat([p.grad.flatten() for p in run.learning if p.grad is not None]))
        run.adam.zero_grad(set_to_none=False)
    torch.testing.assert_close(*found)


def test_a_graph_of_a_pass_adds_up_the_same_gradient() -> None:
    """On a pretended device: the first three passes are called, the fourth is recorded."""
    config = replace(CONFIG, images_per_step=11, batch_size=2)
    expected = gradient(replace(config, graph=False))
    with pretended_cuda() as ledger:
        run = ImageNetTraining(*tiny_cgn(), features(), config, "cuda")
        draw = run.draw(generator())
        run.sigma.freeze()
        run._accumulate(draw)
        ledger.reset()
        run.adam.zero_grad(set_to_none=False)
        run._accumulate(draw)  # now five replays, and the smaller last batch
        run.sigma.backprop()
        found = torch.cat([p.grad.cpu().flatten() for p in run.learning if p.grad is not None])
        assert ledger.counts().waits == len(run.learning)
    torch.testing.assert_close(found, expected)


def test_memory_that_does_not_suffice_is_said_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(ImageNetTraining, "outputs", full)
    with pytest.raises(ValueError, match=r"2 images at once do not fit .* smaller batch_size"):
        trained(replace(CONFIG, batch_size=2))


def test_a_step_minimises_the_mean_over_its_images() -> None:
    run = training(replace(CONFIG, batch_size=2))
    draw = run.draw(generator())
    with torch.no_grad():
        each = [dict(run.terms(one, run.outputs(one))) for one in draw.split(1)]
    terms = run._accumulate(draw)
    for name, term in terms.items():
        assert term == pytest.approx(sum(one[name].item() for one in each) / 3, rel=1e-2, abs=1e-6)


def test_bfloat16_moves_the_weights_in_about_the_same_direction() -> None:
    rough, exact = (gradient(replace(CONFIG, bfloat16=on)) for on in (True, False))
    assert torch.cosine_similarity(rough, exact, dim=0) > 0.9


def test_nothing_but_the_mechanisms_learns() -> None:
    run = training()
    frozen = run.real, run.cgn.saliency, run.features
    before = [weights_sha256(each) for each in frozen]
    run.train_step(run.draw(generator()))
    assert [weights_sha256(each) for each in frozen] == before
    assert not any(w.requires_grad for each in frozen for w in each.parameters())
    for name, mechanism in run.cgn.mechanisms().items():
        start_of = tiny_cgn()[0].get_submodule(name).state_dict()
        moved = {k for k, w in mechanism.named_parameters() if not torch.equal(w, start_of[k])}
        assert len(moved) > 50


def count_calls(run: ImageNetTraining) -> dict[str, int]:
    counts = dict.fromkeys(("real", "saliency", "features"), 0)
    networks = {"real": run.real, "saliency": run.cgn.saliency, "features": run.features}
    for name, network in networks.items():

        def count(*_: object, name: str = name) -> None:
            counts[name] += 1

        network.register_forward_hook(count)
    return counts


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (None, {"real": 1, "saliency": 2, "features": 4}),
        ("texture", {"real": 1, "saliency": 2, "features": 2}),
        ("background", {"real": 1, "saliency": 1, "features": 4}),
        ("reconstruction", {"real": 1, "saliency": 2, "features": 2}),
        ("shape", {"real": 1, "saliency": 2, "features": 4}),
    ],
)
def test_what_an_ablation_does_not_need_is_not_computed(
    part: str | None, expected: dict[str, int]
) -> None:
    config = replace(CONFIG, images_per_step=1)
    run = training(config if part is None else without(config, part))
    counts = count_calls(run)
    terms = run.train_step(run.draw(generator()))
    assert counts == expected
    off = set(PARTS[part]) if part else set()
    assert terms.keys() == {name for of in PARTS.values() for name in of} - off


def test_the_parts_of_the_loss_are_all_its_terms_each_once() -> None:
    names = [name for of in PARTS.values() for name in of]
    assert sorted(names) == sorted(vars(ImageNetLossWeights()))


def test_the_presets_hold_what_paper_and_code_say() -> None:
    paper, code = IMAGENET_PRESETS["paper"], IMAGENET_PRESETS["code"]
    assert (paper.weights.perceptual, code.weights.perceptual) == (125_000, 80_000)
    assert vars(paper.weights) | {"perceptual": 0} == vars(code.weights) | {"perceptual": 0}
    assert (paper.texture_learning_rate, code.texture_learning_rate) == (1e-5, 3e-5)
    assert code.steps * code.images_per_step == 1_200_000


def test_averaged_weights_are_shown_for_as_long_as_they_are_looked_at() -> None:
    run = training(replace(CONFIG, ema_decay=0.5))
    run.train_step(run.draw(generator()))
    run.train_step(run.draw(generator()))
    current, mean = learned(run.cgn).clone(), torch.cat([a.flatten() for a in run.ema.averages])
    with run.with_averages() as shown:
        assert torch.equal(learned(shown), mean)
        assert not shown.training
    assert torch.equal(learned(run.cgn), current)
    assert not torch.equal(current, mean)
    assert torch.equal(learned(run.result()), mean)


def test_sheets_are_due_with_the_checkpoints_and_change_nothing(tmp_path: Path) -> None:
    seen: list[int] = []
    config = replace(CONFIG, checkpoint_minutes=0.0)
    cgn = trained(config, at_checkpoint=lambda _, step: seen.append(step))
    assert seen == [1, 2]
    assert weights_sha256(cgn) == weights_sha256(baseline())
    trained(at_checkpoint=lambda _, step: seen.append(step))
    assert seen == [1, 2, 2]  # in less than ten minutes only the last one


def test_the_result_has_its_own_saliency_network_again() -> None:
    assert (
        tiny_cgn()[0].state_dict().keys() == trained(replace(CONFIG, steps=1)).state_dict().keys()
    )


def test_a_plan_counts_what_learns_and_how_many_passes_are_left() -> None:
    config = replace(CONFIG, steps=10, images_per_step=4, batch_size=2)
    found = plan(training(config), generator())
    assert found.learning == len(start())
    assert found.parameters > found.learning * 4 // 3
    assert found.fixed_bytes > 20 * found.learning
    left = 10 * (2 * found.seconds_a_pass + found.seconds_an_update)
    assert found.seconds_left == pytest.approx(left)
    assert found.peak_bytes > found.fixed_bytes


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"images_per_step": 0}, "must be positive"),
        ({"batch_size": -1}, "batch_size must be positive, got -1"),
        ({"truncation": 0.0}, r"truncation must lie in \(0, 1\]"),
    ],
)
def test_settings_without_sense_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **bad)


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="4 processes cannot share 3 images a step"):
        training(team=ProcessGroup(0, 4))


def test_a_log_holds_each_step_once_though_the_run_was_resumed(tmp_path: Path) -> None:
    first = LossLog(tmp_path / "run.csv")
    for step in (1, 2, 3):
        first(step, 4, {"texture": float(step), "difference": 0.5})
    again = LossLog(tmp_path / "run.csv")
    for step in (3, 4):
        again(step, 4, {"texture": -float(step), "difference": 0.5})
    with (tmp_path / "run.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["texture"]) for row in rows] == [1, 2, -3, -4]


def coloured_halves() -> tuple[Tensor, Tensor]:
    """A red object on the left, blue on the right, and the mask of the object."""
    images = torch.zeros(2, 3, 64, 64)
    images[:, 0, :, :32], images[:, 2, :, 32:] = 1, 1
    return images, images[:, :1].clone()


def test_patches_are_of_the_object_alone() -> None:
    images, masks = coloured_halves()
    grid = patch_grid(images, masks, draw_patches(2, generator()))
    assert grid.shape == images.shape
    assert (grid[:, 0] > 0.99).all()
    assert (grid[:, 2] < 0.01).all()


def test_patches_lie_side_by_side_in_the_order_that_was_drawn() -> None:
    ramp = torch.linspace(0, 1, 128).expand(1, 3, 128, 128)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., :15, :] = torch.linspace(0.2, 1, 128)  # no two patches are covered alike
    chosen = torch.zeros(1, GRID * GRID, dtype=torch.int64)
    same = patch_grid(ramp, mask, chosen)
    first = same[0, 0, : 128 // GRID, : 128 // GRID]
    assert torch.allclose(
        same[0, 0, 128 // GRID * 2 : 128 // GRID * 3, : 128 // GRID], first, atol=0.1
    )
    chosen[0, 1] = N_BEST - 1
    other = patch_grid(ramp, mask, chosen)
    width = 128 // GRID
    changed = (other - same).abs().amax(dim=(0, 1)) > 0.02
    rows, columns = changed.nonzero().unbind(1)
    assert rows.max() <= width + 2
    assert columns.min() >= width - 3
    assert columns.max() <= 2 * width + 3
    assert PATCH_PX * GRID == 90


def test_a_patch_grid_has_no_gradient() -> None:
    images, masks = (each.requires_grad_() for each in coloured_halves())
    assert not patch_grid(images, masks, draw_patches(2, generator())).requires_grad


def share(rank: int, port: int, folder: Path) -> None:
    """What each of two processes does."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    os.environ |= {"MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    with team(torch.device("cpu")) as of:
        assert of == ProcessGroup(rank, 2)
        cgn = trained(team=of, checkpoint=folder / "run.checkpoint")
        torch.save(learned(cgn), folder / f"{rank}.pt")
        drawer = tiny_cgn()[0]
        generate(drawer, SHARDS, folder / "set", dtype=torch.float32, team=of)


SHARDS = SetConfig(n=7, shard_size=2, image_format="png")


def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn(share, args=(port, tmp_path), nprocs=2)
    of_two = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*of_two)
    alone = learned(baseline())
    assert (of_two[0] - alone).norm() < 0.02 * (alone - start()).norm()
    # Whoever goes on from here does not need two processes.
    resumed = trained(checkpoint=tmp_path / "run.checkpoint")
    assert torch.equal(learned(resumed), of_two[0])
    generate(tiny_cgn()[0], SHARDS, tmp_path / "alone", dtype=torch.float32)
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == names
    assert len(names) == 1 + math.ceil(7 / 2)
    for name in names:
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_one_process_is_a_team_of_one_and_the_cpu_is_shared(monkeypatch: Any) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with team(torch.device("cpu")) as of:
        assert of.is_main_process
        assert of.size == 1
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1)


def test_before_training_a_full_reconstruction_costs_nothing() -> None:
    run = training()
    for module in (run.cgn.shape, run.cgn.texture, run.cgn.background):
        assert isinstance(module, BigGAN)
    draw = run.draw(generator())
    terms = dict(run.terms(draw, run.outputs(draw)))
    # Foreground and background are x_gt, whatever the mask is.
    assert terms["difference"] < 1e-4
    assert TINY.n_classes == 5
