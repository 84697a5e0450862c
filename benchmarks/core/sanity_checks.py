"""What makes a plausible number a wrong one: looked for in a module before it is scored.

Some mistakes cannot be seen in logits and labels, such as weights trained on other data than is
said; those that leave a trace on a few test images are looked for here. Nothing is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from torch import Tensor, nn

from benchmarks.core.suite import DecisionRule
from cgn.data.image_set import ImageSet

N_LOOKED_AT = 64  # images
N_EACH = 16  # of each variant, to choose one, and in a batch
N_AGAIN = 3  # of these, shown once more without the others
SURE = 1e-4  # what chance may give a false alarm
MOVED = 0.05  # of a probability, which no rounding explains
AN_IMAGE_A_CLASS = 10  # that order of labels takes to be seen
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
# What is done to images, and what a module does wrong that reads them better so.
MISTAKES: dict[str, Callable[[Tensor], Tensor]] = {
    "the order of colours is reversed (BGR)": lambda x: x.flip(1),
    "images are not normalised": lambda x: (x - MEAN.to(x)) / DEVIATION.to(x),
    "images are normalised twice": lambda x: x * DEVIATION.to(x) + MEAN.to(x),
    "images are normalised twice, by 0.5": lambda x: x / 2 + 1 / 2,
    "mean and deviation are exchanged": lambda x: (
        (x - MEAN.to(x)) / DEVIATION.to(x) * MEAN.to(x) + DEVIATION.to(x)
    ),
    "images are taken to lie in [0, 255]": lambda x: 255 * x,
    "images are taken to lie in [-1, 1]": lambda x: 2 * x - 1,
}


@torch.inference_mode()
def suspicions(
    module: nn.Module,
    variants: Mapping[str, ImageSet],
    decision_rule: DecisionRule,
    device: torch.device | str = "cpu",
) -> list[str]:
    """Look at what a module makes of a few images.

    Args:
        module: From images (B, 3, H, W) in [0, 1] to logits, in evaluation mode, on the device.
        variants: Image sets by name; the one that it reads best is looked at for mistakes.
        decision_rule: As in `Suite`.
        device: Where it runs.

    Returns:
        One sentence for each thing that looks like a mistake; none if all looks well.
    """
    looked_at = {
        name: _some(images, N_EACH, device) for name, images in variants.items() if len(images)
    }
    if not looked_at:
        return []
    shares = {
        name: _right(module, pixels, labels, decision_rule).double().mean()
        for name, (pixels, labels) in looked_at.items()
    }
    best = max(shares, key=lambda name: float(shares[name]))
    pixels, labels = _some(variants[best], N_LOOKED_AT, device)
    logits = _logits(module, pixels)
    found = _of_logits(logits), _alone(module, pixels, logits)
    return [*filter(None, found), *_mistakes(module, pixels, labels, decision_rule)]


def labels_in_another_order(predictions: pd.DataFrame, n_classes: int) -> str:
    """Tell whether classes look confused one for one: a sentence, empty if they don't.

    Args:
        predictions: From `evaluate`, of all variants together: in a single one, a background of
            the next class in turn would look the same.
        n_classes: How many classes there are.

    Example:
        >>> seen = pd.DataFrame({"shape": [0, 1, 2] * 30, "prediction": [2, 0, 1] * 30})
        >>> labels_in_another_order(seen, 3)[:34]
        '100 % would be right with labels i'
    """
    known = predictions[(predictions["shape"] >= 0) & (predictions["prediction"] < n_classes)]
    if len(predictions) < AN_IMAGE_A_CLASS * n_classes or n_classes < 2:
        return ""
    counts = pd.crosstab(known["shape"], known["prediction"])
    counts = counts.reindex(index=range(n_classes), columns=range(n_classes), fill_value=0)
    table = counts.to_numpy()
    best = table[linear_sum_assignment(table, maximize=True)].sum() / len(predictions)
    own = table.trace() / len(predictions)
    if best < 0.5 or own > best / 2:
        return ""
    return (
        f"{100 * best:.0f} % would be right with labels in another order, and {100 * own:.0f} % "
        "are: is the order of the outputs that of the suite's classes?"
    )


def _of_logits(logits: Tensor) -> str:
    """Tell whether logits are probabilities; answers of 0 and 1 alone may be meant."""
    sums = logits.double().sum(dim=1)
    inside = bool((logits >= 0).all() and (logits <= 1).all())
    between = bool(((logits > 0) & (logits < 1)).any())
    if not (inside and between and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)):
        return ""
    return (
        "the outputs are probabilities, not logits: softmax will be applied to them once more, "
        "which flattens confidences and moves scores that average them; leave out the softmax"
    )


def _alone(module: nn.Module, pixels: Tensor, logits: Tensor) -> str:
    """Tell whether an image's answer depends on what else is in the batch, or on chance."""
    few = pixels[:N_AGAIN]
    moved = (module(few).softmax(dim=1) - logits[: len(few)].softmax(dim=1)).abs().max()
    if moved <= MOVED:
        return ""
    return (
        f"the same images get other answers in another batch, by {moved:.2f} of a probability: "
        "does the module draw at random, or normalise by the batch, in evaluation mode?"
    )


def _mistakes(
    module: nn.Module, pixels: Tensor, labels: Tensor, decision_rule: DecisionRule
) -> list[str]:
    """Find the change of the images under which a module reads surely more of them."""
    right = _right(module, pixels, labels, decision_rule)
    most, said = 0, []
    for what, change in MISTAKES.items():
        changed = _right(module, change(pixels), labels, decision_rule)
        gained, lost = int((changed & ~right).sum()), int((right & ~changed).sum())
        sure = gained and binomtest(gained, gained + lost, alternative="greater").pvalue < SURE
        if sure and (n_right := int(changed.sum())) > most:
            most = n_right
            said = [
                f"{n_right} of {len(labels)} images are read rightly as if {what}, and "
                f"{int(right.sum())} as they are given: see how the module prepares images"
            ]
    return said


def _some(images: ImageSet, n: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Take images from all over a set, (B, 3, H, W) in [0, 1], and the labels of their shapes."""
    index = torch.linspace(0, len(images) - 1, min(len(images), n)).long()
    return images.images(index).to(device), images.factors.shape[index]


def _logits(module: nn.Module, pixels: Tensor) -> Tensor:
    """Let a module answer, in batches that every machine has the memory for."""
    return torch.cat([module(batch) for batch in pixels.split(N_EACH)])


def _right(
    module: nn.Module, pixels: Tensor, labels: Tensor, decision_rule: DecisionRule
) -> Tensor:
    """Which images are read rightly, (B,) bool on the CPU."""
    return decision_rule(_logits(module, pixels).double()).argmax(dim=1).cpu() == labels
