"""Draw pictures with the CGN of ImageNet: one factor on its way from a class to another.

Run `python examples/draw_imagenet_classes.py cgn.pth way.png` with the authors' weights, or your
own. Without arguments a tiny network of random weights draws noise, to try the script.

Each row moves one factor from a golden retriever (207) to a zebra (340), and the last row all
three, linearly in the class vectors, as the authors' code does.
"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import one_hot
from torchvision.utils import save_image

from cgn.data.factors import Factors
from cgn.models.imagenet.cgn import ImageNetCGN, truncated_noise
from cgn.models.imagenet.pretrained import from_biggan, load_biggan, load_imagenet_cgn, load_u2net

BEGIN, END = 207, 340
N_STEPS = 8
TRUNCATION = 0.5


def load(arguments: list[str]) -> ImageNetCGN:
    if arguments:
        return load_imagenet_cgn(Path(arguments[0]))
    return from_biggan(load_biggan(["random:16:4"]), load_u2net("random:8"))


@torch.inference_mode()
def main(cgn: ImageNetCGN, out: Path) -> None:
    noise = truncated_noise(1, cgn.config.noise_size, torch.Generator().manual_seed(0), TRUNCATION)
    begin, end = one_hot(torch.tensor([[BEGIN], [END]]), cgn.config.n_classes).float()
    images = []
    for moving in (*((factor,) for factor in Factors._fields), Factors._fields):
        for share in torch.linspace(0, 1, N_STEPS).tolist():
            moved = dict.fromkeys(moving, begin.lerp(end, share))
            factors = Factors(begin, begin, begin)._replace(**moved)
            images.append(cgn.draw(noise, factors, TRUNCATION).image())
    save_image(torch.cat(images), out, nrow=N_STEPS)
    print(f"wrote {out}")


if __name__ == "__main__":
    words = sys.argv[1:]
    main(load(words[:1]), Path(words[1] if len(words) > 1 else "way.png"))
