"""Official data sets: where each lies, its published hash, and the suite that it is checked by."""

from __future__ import annotations

from functools import partial

from benchmarks.data.download import DataSet, Download
from benchmarks.data.imagenet_validation import ARCHIVE, DEVKIT, sort_flat, unpack_sorted
from benchmarks.suites.cue_conflict import CUE_CONFLICT_OFFICIAL
from benchmarks.suites.imagenet import (
    IMAGENET_A_OFFICIAL,
    IMAGENET_SKETCH_OFFICIAL,
    IMAGENET_VALIDATION,
)
from benchmarks.suites.imagenet9 import IN9_OFFICIAL
from benchmarks.worlds.imagenet import IMAGENET
from cgn.models.cgn import load_released


def _mnist_file(name: str, sha256: str, size_bytes: int | None = None) -> Download:
    """One of the four files of MNIST."""
    places = "storage.googleapis.com/cvdf-datasets/mnist", "ossci-datasets.s3.amazonaws.com/mnist"
    urls = tuple(f"https://{place}/{name}-ubyte.gz" for place in places)
    return Download(urls=urls, size_bytes=size_bytes, sha256=sha256)


def _cgn_file(world: str, name: str, sha256: str | None = None) -> Download:
    """Describe weights of the original MNIST CGN, in the authors' repository as of May 2021."""
    commit = "335bebdb47e21a617db9c8ebddce07b670330e7c"
    place = "raw.githubusercontent.com/autonomousvision/counterfactual_generative_networks"
    return Download(
        urls=(f"https://{place}/{commit}/mnists/experiments/cgn_{name}/weights/ckp.pth",),
        size_bytes=2_661_744,
        sha256=sha256,
        kept_as=f"{world}.pth",
    )


DATA_SETS = {
    each.name: each
    for each in (
        DataSet(
            name="mnist",
            about="70,000 digits, for the three MNISTs",
            downloads=(
                _mnist_file(
                    "train-images-idx3",
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                    9_912_422,
                ),
                _mnist_file(
                    "train-labels-idx1",
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                    28_881,
                ),
                _mnist_file(
                    "t10k-images-idx3",
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                ),
                _mnist_file(
                    "t10k-labels-idx1",
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
            ),
            licence="not stated",
            source="LeCun, Cortes and Burges, the MNIST database",
        ),
        DataSet(
            name="cgn-mnist-weights",
            about="the original authors' CGNs of the three MNISTs, for the model cgn-released",
            downloads=(
                _cgn_file(
                    "colored-mnist",
                    "colored_MNIST",
                    "6b178e7c1924b9efc532c467e7f0b77d2702efb536de9816bbd7e92c26d9b3fe",
                ),
                # No hash of these two is known here: they have to load, and the hash of your
                # first download is recorded.
                _cgn_file("double-colored-mnist", "double_colored_MNIST"),
                _cgn_file("wildlife-mnist", "wildlife_MNIST"),
            ),
            licence="MIT",
            source="Sauer and Geiger, ICLR 2021, https://arxiv.org/abs/2101.06046",
            read=load_released,
        ),
        DataSet(
            name="in9",
            about="ImageNet-9, eight variants of 4,050 images, and the Backgrounds Challenge",
            downloads=(
                Download(
                    urls=(
                        "https://github.com/MadryLab/backgrounds_challenge/releases/download/"
                        "data/backgrounds_challenge_data.tar.gz",
                    )
                ),
            ),
            licence="of ImageNet: research only",
            source="Xiao et al., ICLR 2021, https://arxiv.org/abs/2006.09994",
            suite=IN9_OFFICIAL,
        ),
        DataSet(
            name="cue-conflict",
            about="1,280 images with the shape of one class and the texture of another",
            downloads=(
                Download(
                    urls=(
                        "https://github.com/bethgelab/model-vs-human/releases/download/v0.1/"
                        "cue-conflict.tar.gz",
                    )
                ),
            ),
            licence="CC BY 4.0",
            source="Geirhos et al., ICLR 2019, https://arxiv.org/abs/1811.12231",
            suite=CUE_CONFLICT_OFFICIAL,
        ),
        DataSet(
            name="imagenet-a",
            about="7,500 photographs that a ResNet-50 got wrong",
            downloads=(
                Download(
                    urls=("https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",),
                    size_bytes=687_552_512,
                    sha256="3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
                ),
            ),
            licence="not stated",
            source="Hendrycks et al., CVPR 2021, https://arxiv.org/abs/1907.07174",
            suite=IMAGENET_A_OFFICIAL,
        ),
        DataSet(
            name="imagenet-sketch",
            about="50,889 drawings of ImageNet's 1,000 classes",
            downloads=(
                Download(
                    urls=(
                        "https://huggingface.co/datasets/songweig/imagenet_sketch/resolve/main/"
                        "data/ImageNet-Sketch.zip",
                    ),
                    size_bytes=7_593_573_012,
                    sha256="4d3ce6b82a7c48aabf14aeac105eb533e75707f152cc858f55bfc022031a72ed",
                ),
            ),
            licence="MIT",
            source="Wang et al., NeurIPS 2019, https://arxiv.org/abs/1905.13549",
            suite=IMAGENET_SKETCH_OFFICIAL,
        ),
        DataSet(
            name="imagenet",
            about="ImageNet's 50,000 validation images",
            by_hand=f"register at https://image-net.org, download {ARCHIVE} and {DEVKIT} into the "
            "folder of all data, and run this again, which sorts the images into class folders",
            from_hand=partial(unpack_sorted, classes=IMAGENET.classes),
            mend=partial(sort_flat, classes=IMAGENET.classes),
            licence="of ImageNet: research only, after registration",
            source="Russakovsky et al., IJCV 2015, https://arxiv.org/abs/1409.0575",
            suite=IMAGENET_VALIDATION,
        ),
    )
}
