"""Score a module of your own on a suite.

Run `python examples/score_your_module.py`.

A module takes images, float32 (B, 3, H, W) in [0, 1], and returns logits (B, C). The one below
sees nothing but 8 x 8 colour means and has random weights, so its accuracies are near chance.
"""

import torch
from torch import nn

from benchmarks import score


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 8 * 8, 9))
    scores = score(model, "in9")
    print(scores)
    print(f"mixed_rand: {scores['mixed_rand_accuracy'].value:.1%}, chance is {1 / 9:.1%}")
    print(scores.to_frame().head())


if __name__ == "__main__":
    main()
