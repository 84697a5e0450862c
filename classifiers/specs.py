"""Names of networks with weights, which cannot come to mean another network."""

from __future__ import annotations

from pathlib import Path

from cgn.data.preprocessing import Preprocessing
from cgn.io.cache import weights_sha256
from classifiers.checkpoints import load_ensemble
from classifiers.networks.pretrained import Pretrained, is_pretrained, load_pretrained

ENSEMBLE = "ensemble:"


def is_spec(text: str) -> bool:
    """Return whether a text is the spec of a network with weights, and not the name of a recipe.

    Example:
        >>> is_spec("timm:resnet50.a1_in1k"), is_spec("efficientnet-lite0"), is_spec("cgn")
        (True, True, False)
    """
    return text.startswith(ENSEMBLE) or is_pretrained(text)


def load_model(spec: str) -> Pretrained:
    """Load a network with its weights, on the CPU and in evaluation mode.

    Args:
        spec: `ensemble:PATH` with what `bench.py fit` wrote, or any of `load_pretrained`:
            `efficientnet-lite0`, `timm:NAME.TAG`, `tv:NAME@WEIGHTS`, `geirhos:NAME` or
            `file:PATH#arch=ARCH`.

    Raises:
        ValueError: If the spec could mean several networks, or the weights cannot be loaded.

    Example:
        >>> load_model("efficientnet-lite0").n_classes
        1000
    """
    if not spec.startswith(ENSEMBLE):
        return load_pretrained(spec)
    path = Path(spec.removeprefix(ENSEMBLE)).expanduser()
    network, header = load_ensemble(path)
    size_px, sha256 = header["size_px"], weights_sha256(network)
    assumed = f"nuisances={'-'.join(header['nuisances'])}&" if header["nuisances"] else ""
    return Pretrained(
        spec=f"{ENSEMBLE}{path.name}#{assumed}sha256={sha256}",
        module=network,
        weights_sha256=sha256,
        preprocessing=Preprocessing(round(size_px * 256 / 224), size_px),
        n_classes=len(header["classes"]),
        classes=tuple(header["classes"]),
    )
