"""From a network's 1,000 ImageNet outputs to the classes of a suite.

A decision rule turns logits (B, 1000) into how much speaks for each class of the suite, (B, K) in
[0, 1]; the largest decides. A column is another decision, (B,) int64, that a protocol counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.core.suite import Column
from benchmarks.worlds.imagenet import class_labels, class_table, classes_of, in_imagenet_a
from cgn.data.factors import Factors


def wnid_outputs() -> dict[str, int]:
    """Output of each wnid.

    Example:
        >>> wnid_outputs()["n01440764"], len(wnid_outputs())
        (0, 1000)
    """
    return {wnid: index for index, wnid in enumerate(class_table()["wnid"])}


def in9_outputs() -> Mapping[str, int]:
    """One output of each class of ImageNet-9 by the class's name; any of them decides for it.

    Example:
        >>> in9_outputs()["08_fish"], len(in9_outputs())
        (0, 9)
    """
    column = list(class_table()["in9"])
    return {name: column.index(name) for name in classes_of("in9")}


def most_probable_of_groups(probabilities: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Give each class the probability of its most probable output.

    Args:
        probabilities: Of the outputs, (B, K).
        labels: Class of each output, (K,) int64 in [0, n_classes].
        n_classes: How many classes there are; the label `n_classes` stands for none of them.

    Returns:
        (B, n_classes + 1): the largest is that of the class of the most probable output.

    Example:
        >>> probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        >>> most_probable_of_groups(probabilities, torch.tensor([0, 1, 1, 2]), 2)
        tensor([[0.1000, 0.3000, 0.4000]])
    """
    empty = probabilities.new_zeros(len(probabilities), n_classes + 1)
    index = labels.to(probabilities.device).expand_as(probabilities)
    return empty.scatter_reduce(1, index, probabilities, "amax")


def sum_of_groups(
    probabilities: Tensor, labels: Tensor, n_classes: int, *, mean: bool = False
) -> Tensor:
    """Give each class the probability of all of its outputs together.

    Args:
        probabilities: Of the outputs, (B, K).
        labels: Class of each output, (K,) int64, as for `most_probable_of_groups`.
        n_classes: How many classes there are.
        mean: Whether to divide by the number of the class's outputs.

    Returns:
        (B, n_classes); outputs of no class are left out.

    Example:
        >>> probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        >>> sum_of_groups(probabilities, torch.tensor([0, 1, 1, 2]), 2)
        tensor([[0.1000, 0.5000]])
        >>> sum_of_groups(probabilities, torch.tensor([0, 1, 1, 2]), 2, mean=True)
        tensor([[0.1000, 0.2500]])
    """
    members = torch.nn.functional.one_hot(labels, n_classes + 1)[:, :n_classes]
    weights = members / members.sum(dim=0) if mean else members
    return probabilities @ weights.to(probabilities)


def decide_in9(logits: Tensor) -> Tensor:
    """Let the most probable of 1,000 outputs decide; 630 of them count for no class.

    Returns:
        (B, 10), in [0, 1]: of the nine classes, and of none.
    """
    labels, n_classes = class_labels("in9"), len(classes_of("in9"))
    return most_probable_of_groups(logits.softmax(dim=1), labels, n_classes)


def decide_cue_conflict(logits: Tensor) -> Tensor:
    """Let the class with the highest mean probability of its outputs decide.

    Returns:
        (B, 16), in [0, 1]. They don't sum to 1.
    """
    labels, n_classes = class_labels("cue_conflict"), len(classes_of("cue_conflict"))
    return sum_of_groups(logits.softmax(dim=1), labels, n_classes, mean=True)


def decide_imagenet_a(logits: Tensor) -> Tensor:
    """Give the probabilities of the 200 outputs that ImageNet-A has images of, (B, 200)."""
    return logits[:, in_imagenet_a().to(logits.device)].softmax(dim=1)


def decide_imagenet(logits: Tensor) -> Tensor:
    """Give the probabilities of all outputs, (B, 1000)."""
    return logits.softmax(dim=1)


def most_probable(column: str) -> Column:
    """Let the most probable of 1,000 outputs decide; the number of classes stands for none.

    Args:
        column: Of the table of classes, "in9" or "cue_conflict"; so for the next two functions.
    """
    labels = class_labels(column)
    return lambda logits, factors: labels.to(logits.device)[logits.argmax(dim=1)]


def most_probable_mapped(column: str) -> Column:
    """Let the most probable of the outputs that count for a class decide."""
    labels = class_labels(column)
    mapped = labels < len(classes_of(column))
    return lambda logits, factors: labels.to(logits.device)[_argmax_within(logits, mapped)]


def most_probable_sum(column: str) -> Column:
    """Let the class whose outputs have the highest probability together decide."""
    labels, n_classes = class_labels(column), len(classes_of(column))
    return lambda logits, factors: sum_of_groups(
        logits.softmax(dim=1), labels.to(logits.device), n_classes
    ).argmax(dim=1)


def choose_of_200(logits: Tensor, factors: Factors) -> Tensor:
    """Choose the most probable of the 200 outputs of ImageNet-A, (B,) int64, for any image."""
    return _argmax_within(logits, in_imagenet_a())


def choose_of_1000(logits: Tensor, factors: Factors) -> Tensor:
    """Choose the most probable output for images of ImageNet-A.

    Returns:
        (B,) int64: which of the 200 classes, or 200 if it is none of them.
    """
    members = in_imagenet_a()
    places = torch.where(members, members.cumsum(0) - 1, int(members.sum()))
    return places.to(logits.device)[logits.argmax(dim=1)]


def rank(logits: Tensor, factors: Factors) -> Tensor:
    """Count the outputs that are more probable than that of the shape's label.

    Returns:
        (B,) int64, from 0.

    Example:
        >>> labels = Factors.aligned(torch.tensor([0, 1]))
        >>> rank(torch.tensor([[3.0, 1, 2], [3, 1, 2]]), labels)
        tensor([0, 2])
    """
    right = logits.gather(1, factors.shape.to(logits.device)[:, None])
    return (logits > right).sum(dim=1)


def _argmax_within(logits: Tensor, members: Tensor) -> Tensor:
    """Most probable output among members (K,) bool."""
    return logits.masked_fill(~members.to(logits.device), -torch.inf).argmax(dim=1)
