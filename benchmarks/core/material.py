"""Origin and licence of embedded images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Material:
    """Where the embedded images of a world come from, for whoever publishes or cites them.

    Attributes:
        licence: Of the images, as an address.
        citation: What to cite.
        collection: How the images are made.
        biases: What the training images are biased to, and the test images are not.
        limitations: What they do not tell.
        is_synthetic: Whether the images are drawn, and not taken or written by people.
    """

    licence: str
    citation: str
    collection: str
    biases: str
    limitations: str
    is_synthetic: bool = True
