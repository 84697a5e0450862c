"""How the answers of three heads become one.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021: the mean of the heads.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

# Which surfaces follow the shape in an image; the order of `Alignment.shares`.
PATTERNS = ("neither", "texture", "background", "both")
SMALLEST_SHARE = 1e-12  # its logarithm stays finite

Join = Literal["mean", "alignment"]


class Heads(NamedTuple):
    """Logits of the three heads, each (B, C)."""

    shape: Tensor
    texture: Tensor
    background: Tensor


def mean_of_heads(heads: Heads) -> Tensor:
    """Average the heads' log-probabilities, (B, C).

    Example:
        >>> sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.1]])
        >>> mean_of_heads(Heads(sure, unsure, unsure)).argmax(dim=1)
        tensor([0])
    """
    return torch.stack([logits.log_softmax(dim=1) for logits in heads]).mean(dim=0)


def mix_alignments(heads: Heads, shares: Tensor, exponents: Tensor, n_classes: int) -> Tensor:
    """Infer the shape's class from all heads, by Bayes' rule over what follows the shape.

    An image follows one of four patterns: of texture and background neither, one or both are of
    the shape's class, and what does not follow is of any class. With q the shares of the patterns,
    C classes, and the heads' probabilities p raised to their exponents and normalised,

        p(y) ~ p_s(y) (q_neither + q_texture C p_t(y) + q_background C p_b(y)
                       + q_both C^2 p_t(y) p_b(y))

    So surfaces count as far as they agree with each other as the patterns say, and their weight is
    bounded: however sure they are, they change the odds by C^2 q_both / q_neither at most.

    Args:
        heads: Their logits, each (B, C).
        shares: q, (4,) in [0, 1] with the sum 1, in the order of `PATTERNS`.
        exponents: Of the heads' probabilities, (3,) above 0: below 1 for heads that are too sure.
        n_classes: C, if outputs of probability 0 stand beside the classes.

    Returns:
        Unnormalised log-probabilities, (B, C).

    Source:
        Naive Bayes with a latent pattern. The original joins heads by their mean.

    Example:
        >>> shape, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 9.0]])
        >>> heads, ones = Heads(shape, other, other), torch.ones(3)
        >>> mix_alignments(heads, torch.tensor([1.0, 0, 0, 0]), ones, 2).argmax(dim=1)
        tensor([0])
        >>> mix_alignments(heads, torch.tensor([0.1, 0, 0, 0.9]), ones, 2).argmax(dim=1)
        tensor([1])
    """
    shape, texture, background = (
        (exponent * logits).log_softmax(dim=1)
        for exponent, logits in zip(exponents, heads, strict=True)
    )
    # How much more probable than by chance: 0 where a surface follows nothing.
    gains = texture + math.log(n_classes), background + math.log(n_classes)
    evidence = torch.stack([torch.zeros_like(shape), *gains, gains[0] + gains[1]])
    weights = shares.clamp(min=SMALLEST_SHARE).log()[:, None, None]
    joined: Tensor = shape + (weights + evidence).logsumexp(dim=0)
    return joined


class Mean(nn.Module):
    """The mean of the heads' log-probabilities: the paper's."""

    name: ClassVar[Join] = "mean"

    def forward(self, heads: Heads) -> Tensor:
        """Return the joined logits, (B, C)."""
        return mean_of_heads(heads)

    def described(self) -> dict[str, dict[str, float]]:
        """Return the numbers that were learned: none."""
        return {}


class Alignment(nn.Module):
    """A mixture over what follows the shape, see `mix_alignments`, as it was learned.

    Before it is learned, three labels agree in half of the images and are independent in the
    others, as in real and counterfactual images 1:1.

    Attributes:
        n_classes: C.
        shares: Of the patterns, (4,) in [0, 1].
        exponents: Of the heads' probabilities, (3,) above 0.
    """

    name: ClassVar[Join] = "alignment"
    shares: Tensor
    exponents: Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.register_buffer("shares", torch.tensor([0.5, 0.0, 0.0, 0.5]))
        self.register_buffer("exponents", torch.ones(len(Heads._fields)))

    def forward(self, heads: Heads) -> Tensor:
        """Return the joined logits, (B, C)."""
        return mix_alignments(heads, self.shares, self.exponents, self.n_classes)

    def described(self) -> dict[str, dict[str, float]]:
        """Return its numbers by name, as headers of files have them.

        Example:
            >>> Alignment(10).described()["shares"]
            {'neither': 0.5, 'texture': 0.0, 'background': 0.0, 'both': 0.5}
        """
        named = {"shares": (PATTERNS, self.shares), "exponents": (Heads._fields, self.exponents)}
        return {
            what: {name: round(float(value), 4) for name, value in zip(names, values, strict=True)}
            for what, (names, values) in named.items()
        }


def build_join(name: Join, n_classes: int) -> Mean | Alignment:
    """Build a join of heads by its name."""
    return Mean() if name == Mean.name else Alignment(n_classes)
