"""From a module to predictions and scores: any module from images to logits will do.

Several processes share the images among themselves, as `cgn.device.distributed` says.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.core.partial_results import Keeper
from benchmarks.core.scores import Score
from benchmarks.core.statistics import Estimate
from benchmarks.core.suite import Column, DecisionRule, Suite
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.device.distributed import all_gather, local_batches
from cgn.device.memory import PIXELS_ON_CUDA
from cgn.device.precision import evaluating
from cgn.device.transfer import sent

Outputs = Callable[[nn.Module, Tensor], Mapping[str, Tensor]]

NO_COLUMNS: Mapping[str, Column] = MappingProxyType({})
# In a batch: on a CPU, what its caches and the allocator keep (five times as many pixels make
# networks up to 1.7 times slower); on CUDA, what keeps a large GPU busy.
PIXELS_AT_ONCE = {"cpu": 8 * 224 * 224, "cuda": PIXELS_ON_CUDA}
AT_ONCE = {"cpu": 500, "cuda": 4_000}  # images, however small
FINITE = "is finite"  # a column of the answers alone
Said = dict[str, dict[str, Tensor]]  # by output and column, each (B,)


def trains(module: nn.Module) -> bool:
    """Tell whether parts that answer otherwise while they are trained are in training mode."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    return any(part.training and isinstance(part, kinds) for part in module.modules())


def score_suite(suite: Suite, predictions: pd.DataFrame) -> dict[Score, Estimate]:
    """Compute all scores and diagnostics of a suite from the predictions of one model.

    Args:
        suite: The suite.
        predictions: From `evaluate`, or read back by `benchmarks.records.predictions.load`.

    Returns:
        The estimates, in the suite's order; undefined where a variant has no images.

    Raises:
        ValueError: If no variant of the suite has any.
    """
    if not any(one.seen_in(predictions) for one in suite.scores):
        named = ", ".join(dict.fromkeys(name for one in suite.scores for name in one.variants))
        raise ValueError(f"{suite.name} has no predictions of {named}")
    return {one: one.estimated(predictions) for one in suite.all_scores}


def data_sha256(variants: Mapping[str, ImageSet]) -> str:
    """Hash all test images and labels; the order of the variants does not count.

    Example:
        >>> data_sha256({})[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    for name in sorted(variants):
        digest.update(f"{name} {variants[name].sha256()}\n".encode())
    return digest.hexdigest()


def probabilities(logits: Tensor) -> Tensor:
    """Let the most probable class decide: the softmax of logits (B, C)."""
    return logits.softmax(dim=1)


def evaluate(
    module: nn.Module,
    variants: Mapping[str, ImageSet],
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    n_classes: int | None = None,
    decision_rule: DecisionRule = probabilities,
    reference_variant: str | None = None,
    columns: Mapping[str, Column] = NO_COLUMNS,
    precision: torch.dtype = torch.float32,
    progress: Callable[[int], None] | None = None,
) -> tuple[pd.DataFrame, float]:
    """Let a module classify all images of all variants.

    Args:
        module: From images (B, 3, H, W) in [0, 1] to logits (B, C); it is moved to the device,
            put into evaluation mode, and back into its own mode afterwards.
        variants: Image sets by name.
        device: Where to run.
        batch_size: Images a batch, fewer if they are large; it moves no prediction. None takes as
            many as suit the device.
        n_classes: If given, the logits must have this C.
        decision_rule: From logits (B, C) to how much speaks for each class of the suite, (B, K) in
            [0, 1]; the largest is the prediction, and its value the confidence.
        reference_variant: As in `Suite`.
        columns: What else is to be said of each image, by name, as in `Suite`.
        precision: torch.float32, on every device the same one, or torch.bfloat16, as for
            `cgn.device.precision.evaluating`.
        progress: Called after each batch with the number of images in it.

    Returns:
        Predictions, one row an image in the order of the variants, with columns variant, index
        (position in the variant), id, shape, texture, background, prediction, confidence
        (what speaks for it, in [0, 1]) and `columns`; and images per second. Where several
        processes share the images, each gets the answers of all.

    Raises:
        ValueError: If the logits are not finite, or not (B, C), variants are not of the same
            objects as the unchanged one, or there are no images; of a variant without any there
            are no predictions.

    Example:
        >>> from cgn.data.image_set import Factors
        >>> black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        >>> images = ImageSet(black, Factors.aligned(torch.tensor([0, 1])), torch.arange(2))
        >>> module = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
        >>> predictions, _ = evaluate(module, {"test": images})
        >>> predictions[["variant", "index", "shape"]].values.tolist()
        [['test', 0, 0], ['test', 1, 1]]
    """
    tables, images_per_second = evaluate_outputs(
        module,
        variants,
        lambda module, images: {"": module(images)},
        device=device,
        batch_size=batch_size,
        n_classes=n_classes,
        decision_rule=decision_rule,
        reference_variant=reference_variant,
        columns=columns,
        precision=precision,
        progress=progress,
    )
    return tables[""], images_per_second


def evaluate_outputs(
    module: nn.Module,
    variants: Mapping[str, ImageSet],
    outputs: Outputs,
    *,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    n_classes: int | None = None,
    decision_rule: DecisionRule = probabilities,
    reference_variant: str | None = None,
    columns: Mapping[str, Column] = NO_COLUMNS,
    precision: torch.dtype = torch.float32,
    progress: Callable[[int], None] | None = None,
    kept: Keeper | None = None,
) -> tuple[dict[str, pd.DataFrame], float]:
    """Let a module that gives several answers classify all images of all variants at once.

    Args:
        module: As for `evaluate`, and so are all other arguments but `outputs`.
        variants: Image sets by name.
        outputs: From the module and images (B, 3, H, W) in [0, 1] to logits (B, C) by name.
        device: Where to run.
        batch_size: As for `evaluate`.
        n_classes: If given, all logits must have this C.
        decision_rule: As for `evaluate`.
        reference_variant: As for `evaluate`.
        columns: As for `evaluate`.
        precision: As for `evaluate`.
        progress: Called after each batch with the number of images in it.
        kept: Keeps answers while it is under way, and has those of one that was interrupted.

    Returns:
        For each output, predictions as from `evaluate`; and images per second for all together.

    Raises:
        ValueError: If logits are not finite, or not (B, C).

    Example:
        >>> from cgn.data.image_set import Factors
        >>> black = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        >>> images = ImageSet(black, Factors.aligned(torch.tensor([0, 1])), torch.arange(2))
        >>> def both_signs(module, images):
        ...     return {"plus": module(images), "minus": -module(images)}
        >>> module = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        >>> tables, _ = evaluate_outputs(module, {"test": images}, both_signs)
        >>> {name: len(table) for name, table in tables.items()}
        {'plus': 2, 'minus': 2}
    """
    variants = _with_images(variants)
    module.to(device)
    read = _Reader(module, outputs, decision_rule, columns, n_classes)
    tables = defaultdict(list)
    kept = kept or Keeper()
    started = time.perf_counter() - kept.seconds
    with evaluation_mode(module), torch.inference_mode(), evaluating(device, precision):
        for variant, images in variants.items():
            at_once = min(batch_size or len(images), _at_once(images, device))
            labels = _labels(variant, variants, reference_variant).map(
                lambda own: sent(own, device)
            )
            dealt = _dealt(labels, at_once)
            done = kept.of(variant, [len(told.shape) for told in dealt])
            if progress is not None and done:
                progress(sum(len(told.shape) for told in dealt[: len(done)]))
            part = local_batches(len(done))
            batches = images.resident(device).batches(at_once, device=device, part=part)
            own = []
            for (batch, _), told in zip(batches, dealt[len(done) :], strict=True):
                own.append(read(_full(batch, at_once, len(images)), told))
                if progress is not None:
                    progress(len(batch))
                if kept.due():
                    done += kept.add(variant, _brought(own))
                    own = []
            answers = all_gather(done + _brought(own))
            for name in answers[0]:
                parts = [answer[name] for answer in answers]
                tables[name].append(_table(variant, images, parts))
    seconds = time.perf_counter() - started
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    return joined, sum(map(len, variants.values())) / seconds


def _at_once(images: ImageSet, device: torch.device | str) -> int:
    """How many of these images make a batch that every machine has the memory for."""
    pixels_an_image = images.images(slice(1)).shape[2:].numel()
    kind = "cuda" if torch.device(device).type == "cuda" else "cpu"
    return min(AT_ONCE[kind], max(1, PIXELS_AT_ONCE[kind] // pixels_an_image))


def _full(batch: Tensor, at_once: int, n_images: int) -> Tensor:
    """Fill up the last of several batches on a GPU, (B, 3, H, W), with its first image.

    For a new shape cuDNN looks for kernels anew, which takes as long as thousands of images.
    """
    lacking = min(at_once, n_images) - len(batch)
    if not batch.is_cuda or not lacking:
        return batch
    return torch.cat([batch, batch[:1].expand(lacking, -1, -1, -1)])


def _with_images(variants: Mapping[str, ImageSet]) -> dict[str, ImageSet]:
    """Leave out variants without images: nothing can be said of them."""
    found = {name: images for name, images in variants.items() if len(images)}
    if not found:
        raise ValueError(f"there are no images in {', '.join(variants) or 'any variant'}")
    return found


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; then each part's own mode, also of frozen parts."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@dataclass(frozen=True)
class _Reader:
    """Turns batches of images into what is said of them, without waiting for a GPU."""

    module: nn.Module
    outputs: Outputs
    decision_rule: DecisionRule
    columns: Mapping[str, Column]
    n_classes: int | None

    def __call__(self, images: Tensor, factors: Factors) -> Said:
        """What is said of as many images as have labels; the others only fill the batch.

        Returns:
            By output predictions, confidences, whether all logits are finite, and other columns.
        """
        found = {}
        for name, logits in self._answers(images).items():
            _require_logits(logits, len(images), self.n_classes)
            logits = logits[: len(factors.shape)].double()
            confidence, prediction = self.decision_rule(logits).max(dim=1)
            said = {"prediction": prediction, "confidence": confidence}
            said |= {column: say(logits, factors) for column, say in self.columns.items()}
            found[name] = said | {FINITE: logits.isfinite().all(dim=1)}
        return found

    def _answers(self, images: Tensor) -> Mapping[str, Tensor]:
        """Logits of a batch by output; a batch that the GPU has no memory for is halved."""
        images = images.contiguous(memory_format=torch.channels_last)
        try:
            return self.outputs(self.module, images)
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        halves = [self._answers(half) for half in images.tensor_split(2)]
        return {name: torch.cat([half[name] for half in halves]) for name in halves[0]}


def _require_logits(logits: Tensor, n_images: int, n_classes: int | None) -> None:
    """Refuse what is no logits of all images, or of other classes; values are looked at later."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != n_images:
        came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the module must give logits ({n_images}, C), it gave {came}")
    if n_classes is not None and logits.shape[1] != n_classes:
        raise ValueError(
            f"the module gives {logits.shape[1]} logits an image, but the suite has "
            f"{n_classes} classes; map its classes to those of the suite first"
        )


def _brought(batches: list[Said]) -> list[Said]:
    """Bring what is said of several batches to the CPU, all of a column together.

    Raises:
        ValueError: If logits were not finite.
    """
    sizes = [len(next(iter(next(iter(batch.values())).values()))) for batch in batches]
    dealt: list[Said] = [{} for _ in batches]
    for name in batches[0] if batches else ():
        columns = {
            column: torch.cat([batch[name][column] for batch in batches]).cpu()
            for column in batches[0][name]
        }
        if not columns.pop(FINITE).all():
            raise ValueError(
                "the module gives logits that are infinite or NaN: did training diverge?"
            )
        split = {column: said.split(sizes) for column, said in columns.items()}
        for place, batch in enumerate(dealt):
            batch[name] = {column: parts[place] for column, parts in split.items()}
    return dealt


def _labels(
    variant: str, variants: Mapping[str, ImageSet], reference_variant: str | None
) -> Factors:
    """Labels of a variant's images that columns are told: the unchanged ones of the same objects.

    Raises:
        ValueError: If these are other objects, or in another order.
    """
    before = variants[variant if reference_variant is None else reference_variant]
    if not torch.equal(before.ids, variants[variant].ids):
        raise ValueError(
            f"{variant} and {reference_variant} do not show the same objects in one order"
        )
    return before.factors


def _dealt(labels: Factors, batch_size: int) -> list[Factors]:
    """The labels of each of this process's batches."""
    batches = zip(*(each.split(batch_size) for each in labels), strict=True)
    return [Factors(*batch) for batch in batches][local_batches()]


def _table(name: str, images: ImageSet, answers: list[dict[str, Tensor]]) -> pd.DataFrame:
    """Labels and predictions of one variant side by side."""
    said = {column: torch.cat([each[column] for each in answers]) for column in answers[0]}
    return pd.DataFrame(
        {
            "variant": name,
            "index": range(len(images)),
            "id": images.ids.numpy(),
            **{factor: labels.numpy() for factor, labels in images.factors._asdict().items()},
            **{column: each.numpy() for column, each in said.items()},
        }
    )
