"""Published weights of the ImageNet CGN and its parts: fetched, read, and written back.

Source:
    The original authors' `cgn.pth`, https://github.com/autonomousvision/counterfactual_generative_networks
    BigGAN-deep, https://github.com/huggingface/pytorch-pretrained-BigGAN
    U²-Net, https://github.com/xuebinqin/U-2-Net
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from cgn.io.schema import user_path
from cgn.io.weights import read_state
from cgn.io.writing import download
from cgn.models.imagenet.biggan import MULTIPLIERS, BigGAN, BigGANConfig
from cgn.models.imagenet.cgn import ImageNetCGN, ImageNetConfig, on_meta, set_trainable
from cgn.segmentation.u2net import U2Net

# Tried in order: `hub:OWNER/NAME/FILE` of the Hugging Face hub, or a URL. Of the larger two no copy
# on the hub is known.
_S3 = "https://s3.amazonaws.com/models.huggingface.co/biggan/biggan-deep-{}-pytorch_model.bin"
BIGGAN_SOURCES = {
    128: ("hub:osanseviero/BigGAN-deep-128/pytorch_model.bin", _S3.format(128)),
    256: (_S3.format(256),),
    512: (_S3.format(512),),
}
# The networks of the authors' file, and what they are called here.
AUTHORS = {"f_shape": "shape", "f_text": "texture", "f_bg": "background", "u2net": "saliency"}
REAL = "biggan_GT"  # the published BigGAN, which the authors' file holds once more


def fetch(source: str, folder: Path | None = None) -> Path:
    """Get a file of weights from disk, a hub, or a URL; what is fetched is kept.

    Args:
        source: A path, `hub:OWNER/NAME/FILE`, or a URL.
        folder: Where a file from a URL is kept; the default is that of `torch.hub`.

    Raises:
        ValueError: If it cannot be fetched; the message says why and what to do.
    """
    if source.startswith("hub:"):
        return _from_hub(source)
    if urlsplit(source).scheme in ("http", "https", "file"):
        return _from_url(source, folder)
    path = user_path(source)
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a path, hub:OWNER/NAME/FILE, or a URL")
    return path


def _from_hub(source: str) -> Path:
    """Get a file of a repository on the hub."""
    from huggingface_hub import hf_hub_download  # half a second to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    parts = source.removeprefix("hub:").split("/", 2)
    if len(parts) != 3 or {"", ".", ".."} & set("/".join(parts).split("/")):
        raise ValueError(f"{source} is not of the form hub:OWNER/NAME/FILE")
    try:
        return Path(hf_hub_download("/".join(parts[:2]), parts[2]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(f"cannot fetch {source}: {error}") from None


def _from_url(source: str, folder: Path | None) -> Path:
    """Get a file behind a URL, in one piece or not at all."""
    folder = folder or Path(torch.hub.get_dir()) / "checkpoints"
    name = Path(urlsplit(source).path).name
    if name in ("", ".."):
        raise ValueError(f"{source} names no file; give the address of one")
    path = folder / name
    if not path.is_file():
        try:
            download(source, path)
        except OSError as error:
            raise ValueError(
                f"cannot fetch {source} ({error}); fetch it by other means and give its path"
            ) from None
    return path


def load_state(network: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Give a network its tensors, all of them and no others.

    Raises:
        ValueError: If names or shapes differ.
    """
    try:
        network.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{what} does not fit: {text[:300]}") from None


def load_biggan(sources: Sequence[str] | None = None, size_px: int = 256) -> BigGAN:
    """Load a published BigGAN-deep.

    Args:
        sources: See `fetch`, tried in order; None takes the published places.
            `random:PIXELS:WIDTH` makes one of random weights, to try things out.
        size_px: Of the published one: 128, 256 or 512.

    Raises:
        ValueError: If none can be fetched, or the file holds something else.
    """
    if sources is None and size_px not in BIGGAN_SOURCES:
        known = ", ".join(map(str, BIGGAN_SOURCES))
        raise ValueError(f"published BigGANs draw {known} pixels, not {size_px}")
    if sources is not None and sources[0].startswith("random:"):
        resolution, width = _sizes(sources[0], 2)
        return BigGAN(BigGANConfig(resolution_px=resolution, width=width)).eval()
    path = _first(BIGGAN_SOURCES[size_px] if sources is None else sources)
    network = _biggan(read_state(path), str(path))
    if sources is None and network.config.resolution_px != size_px:
        raise ValueError(f"{path} draws {network.config.resolution_px} pixels, not {size_px}")
    return network


def _sizes(source: str, n: int) -> list[int]:
    """Read the numbers of a network of random weights."""
    parts = source.split(":")[1:]
    if len(parts) != n or not all(part.isdecimal() for part in parts):
        raise ValueError(f"{source} is not random: and {n} numbers, as in random:256:128")
    return [int(part) for part in parts]


def _first(sources: Sequence[str]) -> Path:
    """Get the first file that can be fetched."""
    problems = []
    for source in sources:
        try:
            return fetch(source)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError("; ".join(problems))


def _biggan(state: Mapping[str, Tensor], what: str, *, swapped: bool = False) -> BigGAN:
    """Make the BigGAN that a state dict is of."""
    with torch.device("meta"):
        network = BigGAN(_config_of(state, what, swapped=swapped))
    load_state(network, state, what)
    return network.requires_grad_(True).eval()


def _config_of(state: Mapping[str, Tensor], what: str, *, swapped: bool) -> BigGANConfig:
    """Infer the config of a BigGAN from its tensors."""
    try:
        noise_size, n_classes = state["embeddings.weight"].shape
        width = state["generator.bn.weight"].shape[0]
        first = state["generator.gen_z.bias"].shape[0] // (16 * width)
    except KeyError as error:
        raise ValueError(f"{what} holds no BigGAN-deep: it lacks {error}") from None
    n_blocks = sum(
        name.startswith("generator.layers.") and name.endswith("conv_0.weight_orig")
        for name in state
    )
    for size_px, multipliers in MULTIPLIERS.items():
        if (multipliers[0], 2 * len(multipliers) - 2) == (first, n_blocks):
            return BigGANConfig(
                resolution_px=size_px,
                width=width,
                n_classes=n_classes,
                noise_size=noise_size,
                swapped_statistics=swapped,
            )
    raise ValueError(f"{what} holds a BigGAN of {n_blocks} blocks, which is none that is known")


def load_u2net(source: str) -> U2Net:
    """Load a published U²-Net.

    Args:
        source: Of `u2net.pth`, see `fetch`; `random:WIDTH` makes one of random weights.

    Raises:
        ValueError: If it cannot be fetched, or the file holds something else.
    """
    if source.startswith("random:"):
        return U2Net(_sizes(source, 1)[0]).requires_grad_(False).eval()
    path = fetch(source)
    return _u2net(read_state(path), str(path))


def _u2net(state: Mapping[str, Tensor], what: str) -> U2Net:
    """Make the U²-Net that a state dict is of."""
    first = state.get("stage1.rebnconvin.conv_s1.weight")
    if first is None:
        raise ValueError(f"{what} holds no U²-Net: it lacks stage1.rebnconvin.conv_s1.weight")
    with torch.device("meta"):
        network = U2Net(first.shape[0])
    load_state(network, state, what)
    return network.requires_grad_(False).eval()


def from_biggan(biggan: BigGAN, saliency: U2Net) -> ImageNetCGN:
    """Make the CGN that training starts from: each mechanism is the published BigGAN."""
    of = biggan.config
    config = ImageNetConfig(
        n_classes=of.n_classes,
        image_size_px=of.resolution_px,
        width=of.width,
        noise_size=of.noise_size,
        saliency_width=saliency.stage1.rebnconvin.conv_s1.out_channels,
        swapped_statistics=of.swapped_statistics,
    )
    cgn = on_meta(config)
    for mechanism in cgn.mechanisms().values():
        copied = {name: tensor.clone() for name, tensor in biggan.state_dict().items()}
        load_state(mechanism, copied, "the BigGAN")
    load_state(cgn.saliency, saliency.state_dict(), "the U²-Net")
    return set_trainable(cgn)


def load_authors(path: Path, *, swapped_statistics: bool = True) -> tuple[ImageNetCGN, BigGAN]:
    """Load the ImageNet weights that the original authors published.

    Args:
        path: Their `cgn.pth`.
        swapped_statistics: Draw as the authors' code does between known truncations, see
            `cgn.models.imagenet.biggan.interpolate_statistics`.

    Returns:
        The CGN, and the BigGAN whose images it was trained to take apart.

    Raises:
        ValueError: If the file is cut short or holds something else.
    """
    nets: dict[str, dict[str, Tensor]] = {name: {} for name in (*AUTHORS, REAL)}
    for name, tensor in read_state(path).items():
        network, _, rest = name.partition(".")
        if network not in nets:
            raise ValueError(f"{name!r} of {path} is no tensor of the original ImageNet CGN")
        nets[network][rest] = tensor
    real = _biggan(nets[REAL], f"{REAL} of {path}", swapped=swapped_statistics)
    cgn = from_biggan(real, _u2net(nets["u2net"], f"u2net of {path}"))
    for theirs, ours in AUTHORS.items():
        load_state(cgn.get_submodule(ours), nets[theirs], f"{theirs} of {path}")
    return set_trainable(cgn), real.requires_grad_(False)


def load_imagenet_cgn(path: Path) -> ImageNetCGN:
    """Load an ImageNet CGN, one of ours or the original authors' `cgn.pth`.

    Raises:
        ValueError: If it is neither.
    """
    if path.suffix == ".safetensors":
        return ImageNetCGN.load(path)[0]
    return load_authors(path)[0]


def authors_state(cgn: ImageNetCGN, real: BigGAN) -> dict[str, Tensor]:
    """Name the tensors as the original authors' code does, so that it can load them."""
    networks = {REAL: real} | {theirs: cgn.get_submodule(o) for theirs, o in AUTHORS.items()}
    return {
        f"{network}.{name}": tensor
        for network, module in networks.items()
        for name, tensor in module.state_dict().items()
    }
