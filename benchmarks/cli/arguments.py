"""What the command line takes: commands, flags and their help.

What the commands do is not here: see `bench.py`.
"""

from __future__ import annotations

import argparse
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from benchmarks.cli.values import (
    file_to_read,
    file_to_write,
    folder_to_read,
    folder_to_write,
    names,
    number,
    path_to_write,
    source_of_images,
    source_of_weights,
    word,
)
from benchmarks.suites.data_sets import DATA_SETS
from cgn.data.shards import SetConfig
from cgn.device.precision import PRECISIONS
from cgn.models.critic import VGG_WEIGHTS
from cgn.training.imagenet_config import (
    IMAGENET_PRESETS,
    PARTS,
    ImageNetLossWeights,
    ImageNetTrainConfig,
)
from cgn.training.small import LossWeights, TrainConfig

RESULTS = Path(__file__).parents[2] / "results"
WEIGHTS = Path(__file__).parents[2] / "classifiers" / "weights"
GROUPS = "all (seven), mnists, t10k, attributions, natural"
EXAMPLES = """\
examples:
  bench.py --suite in9 --model cgn-ensemble         does it look at the object or behind it?
  bench.py --suite mnists --model erm,cgn --seeds 3
                                                    three suites, two models, means over seeds
  bench.py --suite colored-mnist --model cgn --data ~/mnist
                                                    the official digits, not the embedded ones
  bench.py --suite attribution-openmoji-9 --model cgn,erm
                                                    which factor, changed alone, moves them?
  bench.py --suite cue-conflict --model efficientnet-lite0 --data ~/cue-conflict
                                                    a pretrained network, on the official images
  bench.py data cue-conflict                        fetch them, to where they are looked for
  bench.py list                                     all suites and models, and what they ask
  bench.py compare cgn-ensemble erm --suite in9     is the difference more than chance?
  bench.py reproduce mnists --data ~/mnist --textures ~/wildlife
                                                    what others published, beside ten seeds
  bench.py check --against main                     does any row no longer hold, or is worse?
  bench.py rescore                                  new scores for old rows, without a model
  bench.py report --out report.html                 everything on one page, with pictures
  bench.py train cgn --suite in9 --out my.safetensors
                                                    train the generator of counterfactuals
  bench.py --suite in9 --model shipped:cgn-ensemble nothing to fit: weights of this package
  bench.py fit --images TRAIN --masks MASKS --out my.safetensors
                                                    an ensemble on photographs of your own
  bench.py train cgn --suite in9 --scale imagenet --u2net u2net.pth --dry-run
                                                    what will the paper's own CGN need?
  bench.py counterfactuals --weights cgn.pth --n 10000 --out counterfactuals
                                                    draw from it

Every run adds rows to results/runs.csv, keeps the prediction of each image in
results/predictions, and rewrites results/<suite>.csv. Interrupt it at any time and run the
same command again.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and an exception, like all others of this program."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise ValueError(f"{message}; see `{self.prog} --help`")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse `--flag=--`, of which the parser would make a list without any word."""
        value = super()._get_values(action, arg_strings)
        if action.nargs is None and value == []:
            self.error(f"argument {'/'.join(action.option_strings)}: expected a word, got '--'")
        return value


def command_line(ensemble: type[Any] | None = None) -> Parser:
    """Make the parser of all commands.

    Args:
        ensemble: The dataclass whose fields are settings of `fit`; without it there are none.
    """
    parser = Parser(
        prog="bench.py",
        description="Does a classifier look at shape, texture or background?",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_run(commands.add_parser("run", help="score models on suites (the default)"))
    add_list(commands.add_parser("list", help="show suites and models"))
    add_data_sets(commands.add_parser("data", help="fetch official data, and check it"))
    add_check(commands.add_parser("check", help="find rows of results that do not hold"))
    add_rescore(commands.add_parser("rescore", help="add scores that rows lack, without a model"))
    add_reproduce(commands.add_parser("reproduce", help="hold published scores against ours"))
    add_report(commands.add_parser("report", help="write all results as one HTML page"))
    add_compare(commands.add_parser("compare", help="test what differs between two models"))
    add_train(commands.add_parser("train", help="train a CGN, or classifiers to be shipped"))
    add_fit(commands.add_parser("fit", help="fit an ensemble to images of your own"), ensemble)
    add_quality(commands.add_parser("quality", help="measure a CGN's counterfactuals"))
    add_throughput(commands.add_parser("throughput", help="measure how fast all of it is here"))
    add_counterfactuals(
        commands.add_parser("counterfactuals", help="draw a set of them from the ImageNet CGN")
    )
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `run`."""
    parser.set_defaults(command="run")
    parser.add_argument("--suite", type=names, required=True, help=f"{GROUPS}, or NAME[,NAME]")
    parser.add_argument(
        "--model",
        type=names,
        required=True,
        help="all, or NAME[,NAME]; shipped:NAME takes weights that come with the package",
    )
    parser.add_argument(
        "--seeds",
        type=number("seeds"),
        default=1,
        metavar="N",
        help="0 to N-1; CGNs of several seeds take turns",
    )
    parser.add_argument("--results", type=folder_to_write, default=RESULTS, metavar="FOLDER")
    parser.add_argument(
        "--protocol",
        type=word,
        metavar="NAME",
        help="how an official suite is shown and scored, as in9@resize256-v1; default: its first",
    )
    parser.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        default="float32",
        help="of pretrained networks, default: float32; rows of another are named NAME+bfloat16",
    )
    add_data(parser)
    add_correlation(parser)


def add_list(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `list`."""
    parser.set_defaults(command="list")
    parser.add_argument(
        "--readme",
        type=file_to_read,
        metavar="FILE",
        help="make all tables between marks in this file anew, from the results",
    )
    parser.add_argument("--results", type=folder_to_write, default=RESULTS, metavar="FOLDER")


def add_data_sets(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `data`."""
    parser.set_defaults(command="data")
    parser.description = (
        "Fetch official data to where the other commands look for it; without names, list it. An "
        "interrupted download goes on where it was. Example: bench.py data mnist cue-conflict"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DATA_SETS))
    parser.add_argument("--verify", action="store_true", help="only check what is there")
    parser.add_argument("--offline", action="store_true", help="connect nowhere")
    parser.add_argument(
        "--folder",
        type=folder_to_write,
        metavar="FOLDER",
        help="default: $CGN_BENCH_DATA, else the user cache",
    )


def add_check(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `check`."""
    parser.set_defaults(command="check")
    parser.add_argument("--results", type=folder_to_write, default=RESULTS, metavar="FOLDER")
    parser.add_argument(
        "--against",
        type=word,
        metavar="REV",
        help="a git revision; rows that were there must still be, and no score may be worse",
    )
    parser.add_argument(
        "--summary", type=file_to_write(), metavar="FILE", help="write Markdown there"
    )
    parser.add_argument(
        "--pin",
        action="store_true",
        help="write down what new versions of protocols decide, in benchmarks/protocols.csv",
    )


def add_rescore(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `rescore`."""
    parser.set_defaults(command="rescore")
    parser.add_argument(
        "--suite", type=names, help=f"{GROUPS}, or NAME[,NAME]; default: all with rows"
    )
    parser.add_argument("--results", type=folder_to_write, default=RESULTS, metavar="FOLDER")


def add_reproduce(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `reproduce`."""
    parser.set_defaults(command="reproduce", correlation=1.0)
    parser.add_argument("suite", type=names, help="all, mnists, or NAME[,NAME]")
    parser.add_argument("--seeds", type=number("seeds"), default=10, metavar="N", help="default 10")
    parser.add_argument(
        "--quick",
        action="store_const",
        const=2,
        dest="seeds",
        help="as --seeds 2, for a first look",
    )
    parser.add_argument("--no-run", action="store_true", help="only print what is there")
    parser.add_argument("--results", type=folder_to_write, default=RESULTS, metavar="FOLDER")
    add_data(parser)


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `report`."""
    parser.set_defaults(command="report")
    parser.add_argument("--results", type=folder_to_write, default=RESULTS, metavar="FOLDER")
    parser.add_argument(
        "--out",
        type=file_to_write(".html", ".htm"),
        metavar="FILE",
        help="default: report.html in the folder of results",
    )


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `compare`."""
    parser.set_defaults(command="compare")
    parser.add_argument(
        "models", type=word, nargs=2, metavar="MODEL", help="as in the leaderboards"
    )
    parser.add_argument("--suite", type=names, default="all", help=f"{GROUPS}, or NAME[,NAME]")
    parser.add_argument("--source", type=word, default="embedded", help="as in the leaderboards")
    parser.add_argument("--results", type=folder_to_write, default=RESULTS, metavar="FOLDER")


def add_throughput(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `throughput`."""
    parser.set_defaults(command="throughput")
    parser.description = (
        "Measure training, sampling and evaluation with pytest-benchmark and add rows to "
        "results/throughput.csv; needs a checkout of the repository. See docs/speed.md."
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--only", default="", metavar="PATTERN", help="as pytest's -k")
    parser.add_argument(
        "--seconds",
        type=number("seconds"),
        default=0,
        metavar="N",
        help="stop then; default: never",
    )
    parser.add_argument(
        "--compare-fail",
        type=number("compare_fail", float),
        metavar="RATIO",
        help="end with 1 if anything has less than this share of its last speed on the same card",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: do they run? no rows")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `run`, `train` and `reproduce` share."""
    parser.add_argument(
        "--data",
        type=word,
        metavar="FOLDER",
        help="'embedded', 'official' or a folder; default: official data if it lies in "
        "$CGN_BENCH_DATA, else embedded",
    )
    parser.add_argument(
        "--textures",
        type=folder_to_read,
        metavar="FOLDER",
        help="object/*.jpg, background/*.jpg: wildlife",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


def add_correlation(parser: argparse.ArgumentParser) -> None:
    """Add the flag that decides how biased training images are."""
    parser.add_argument(
        "--correlation",
        type=float,
        default=1.0,
        metavar="RHO",
        help="MNISTs: how often texture and background follow the class in training; default 1",
    )


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add what can be trained."""
    whats = parser.add_subparsers(required=True, metavar="WHAT")
    add_train_cgn(whats.add_parser("cgn", help="the CGN of a suite's world"))
    add_train_classifier(
        whats.add_parser("classifier", help="classifiers that come with the package")
    )


def add_train_classifier(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `train classifier`."""
    parser.set_defaults(command="train classifier")
    parser.description = (
        "Fit a model with seed 0 on the embedded data of each suite's world, write its weights to "
        "where `--model shipped:NAME` finds them, and score these on all embedded suites of the "
        "world. Example: bench.py train classifier --suite all --model cgn-ensemble"
    )
    parser.add_argument("--suite", type=names, required=True, help=f"{GROUPS}, or NAME[,NAME]")
    parser.add_argument("--model", type=word, required=True, metavar="NAME")
    parser.add_argument(
        "--out",
        type=folder_to_write,
        default=WEIGHTS,
        metavar="FOLDER",
        help="default: classifiers/weights",
    )
    parser.add_argument("--results", type=folder_to_write, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


def add_train_cgn(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `train cgn`: one for each field of the training's config."""
    parser.set_defaults(command="train cgn")
    parser.add_argument("--suite", type=word, required=True, metavar="NAME")
    parser.add_argument(
        "--out",
        type=file_to_write(".safetensors"),
        metavar="FILE",
        help=".safetensors; default: where `run` finds it",
    )
    add_data(parser)
    add_correlation(parser)
    settings = parser.add_argument_group("settings", "A world may have defaults of its own.")
    add_settings(settings, (TrainConfig, ""), (LossWeights, "weight-"))
    add_imagenet(parser)


def add_imagenet(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `train` that are for the CGN of ImageNet alone."""
    parser.add_argument("--scale", choices=["small", "imagenet"], default="small")
    parser.add_argument("--dry-run", action="store_true", help="imagenet: what will be needed?")
    group = parser.add_argument_group("settings with --scale imagenet", "See docs/imagenet.md.")
    group.add_argument("--preset", choices=list(IMAGENET_PRESETS), default="paper")
    group.add_argument("--without", choices=list(PARTS), help="a part of the loss")
    group.add_argument(
        "--biggan",
        type=source_of_weights,
        metavar="FILE",
        help="path, hub:OWNER/NAME/FILE or URL of biggan-deep-256, or random:PIXELS:WIDTH to try "
        "things out; default: its published place",
    )
    group.add_argument(
        "--u2net",
        type=source_of_weights,
        metavar="FILE",
        help="the same of u2net.pth, or random:WIDTH",
    )
    group.add_argument(
        "--vgg",
        choices=[*VGG_WEIGHTS, "random"],
        default=VGG_WEIGHTS[0],
        help="torchvision's name of VGG16's weights, or random",
    )
    add_settings(group, (ImageNetTrainConfig, ""), (ImageNetLossWeights, "weight-"))


def add_counterfactuals(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `counterfactuals`."""
    parser.set_defaults(command="counterfactuals")
    parser.description = (
        "Draw from the ImageNet CGN: a set in shards, or with --combine or --interpolate one "
        "picture. Under torchrun all processes share the work; repeat an interrupted command."
    )
    parser.add_argument(
        "--weights",
        type=file_to_read,
        required=True,
        metavar="FILE",
        help="ours, or the authors' cgn.pth",
    )
    parser.add_argument(
        "--out", type=path_to_write, required=True, metavar="PATH", help="folder, or PNG"
    )
    parser.add_argument("--batch-size", type=number("batch_size"), help="default 1, on a GPU 32")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--combine",
        type=number("combine"),
        metavar="N",
        help="a picture of N shapes x textures x N/2",
    )
    parser.add_argument(
        "--interpolate", choices=["shape", "texture", "background", "all"], help="needs --to"
    )
    parser.add_argument(
        "--to", type=number("to"), metavar="CLASS", help="where the interpolation ends"
    )
    add_settings(parser.add_argument_group("settings"), (SetConfig, ""))


def add_fit(parser: argparse.ArgumentParser, ensemble: type[Any] | None) -> None:
    """Add the flags of `fit`: one for each field of the ensemble's config."""
    parser.set_defaults(command="fit")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Fit one backbone with a head for shape, texture and background to real images and to\n"
        "counterfactuals, here or, as `torchrun … bench.py fit …`, on many GPUs and machines."
    )
    parser.epilog = (
        "The counterfactuals are those of a file, or recombined from the real images by masks.\n"
        "An interrupted fit goes on when the command is given again. To score what was fitted:\n"
        "bench.py --suite in9 --model ensemble:FILE --data BG_CHALLENGE"
    )
    parser.add_argument(
        "--images",
        type=source_of_images,
        required=True,
        metavar="FOLDER",
        help="one folder a class, or hub:NAME",
    )
    parser.add_argument(
        "--split", type=word, default="train", help="of a set of the hub; default train"
    )
    of = parser.add_mutually_exclusive_group(required=True)
    of.add_argument("--counterfactuals", type=file_to_read, metavar="FILE", help="an image set")
    of.add_argument(
        "--real-only",
        action="store_true",
        help="none, and one head: the baseline, with as many steps",
    )
    of.add_argument(
        "--masks",
        type=folder_to_read,
        metavar="FOLDER",
        help="named as the images: .npy or pictures, where what is not 0 is object",
    )
    parser.add_argument(
        "--n-counterfactuals",
        type=number("n_counterfactuals"),
        default=20_000,
        metavar="N",
        help="to recombine; default 20000",
    )
    parser.add_argument(
        "--size", type=number("size"), default=224, metavar="PX", help="default 224"
    )
    parser.add_argument(
        "--out",
        type=file_to_write(".safetensors"),
        required=True,
        metavar="FILE",
        help=".safetensors",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    if ensemble is not None:
        settings = parser.add_argument_group("settings")
        types = get_type_hints(ensemble)
        for field in fields(ensemble):
            add_setting(settings, field, types[field.name], "")


def add_quality(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quality`."""
    parser.set_defaults(command="quality")
    parser.add_argument("--suite", type=word, required=True, metavar="NAME")
    parser.add_argument(
        "--weights",
        type=file_to_read,
        metavar="FILE",
        help="default: what `run` takes for this data",
    )
    parser.add_argument("--seed", type=number("seed"), default=0)
    add_data(parser)
    add_correlation(parser)
    parser.add_argument("--scale", choices=["small", "imagenet"], default="small")
    group = parser.add_argument_group("settings with --scale imagenet", "See docs/imagenet.md.")
    group.add_argument("--n", type=number("n"), default=2_000, help="images; default 2000")
    group.add_argument(
        "--truncation",
        type=number("truncation", float),
        default=0.5,
        help="of the noise; default 0.5",
    )
    group.add_argument("--batch-size", type=number("batch_size"), default=16, help="default 16")
    group.add_argument(
        "--real", type=folder_to_read, metavar="FOLDER", help="CLASS/*.JPEG, for FID and KID"
    )
    group.add_argument("--no-segmenter", action="store_true", help="leave the second one out")


def training_settings() -> set[str]:
    """Return the names of all settings of training, as they are in the parsed options."""
    named: dict[type, str] = {TrainConfig: "", LossWeights: "weight_"}
    named |= {ImageNetTrainConfig: "", ImageNetLossWeights: "weight_"}
    return {f"{prefix}{field.name}" for config, prefix in named.items() for field in fields(config)}


def add_settings(group: argparse._ArgumentGroup, *configs: tuple[type, str]) -> None:
    """Add a flag for each field with a default; those that are there already serve twice."""
    there = {action.dest for action in group._actions}
    for config, prefix in configs:
        types = get_type_hints(config)
        for field in fields(config):
            dest = f"{prefix}{field.name}".replace("-", "_")
            if field.default is not MISSING and dest not in there:
                add_setting(group, field, types[field.name], prefix)
            elif field.default is MISSING and field.name == "n":
                group.add_argument(
                    "--n", type=number("n"), default=argparse.SUPPRESS, help="images"
                )


def add_setting(group: argparse._ArgumentGroup, field: Field[Any], kind: Any, prefix: str) -> None:
    """Add the flag of one field; it is absent unless given, so that it overrides nothing."""
    flag = f"--{prefix}{field.name}".replace("_", "-")
    default = f"default {field.default}"
    if kind is bool:
        action = argparse.BooleanOptionalAction
        group.add_argument(flag, action=action, default=argparse.SUPPRESS, help=default)
        return
    if choices := get_args(kind):
        group.add_argument(flag, choices=choices, default=argparse.SUPPRESS, help=default)
        return
    name = f"{prefix}{field.name}".replace("-", "_")
    read = word if kind is str else number(name, kind)
    group.add_argument(
        flag, type=read, default=argparse.SUPPRESS, metavar=kind.__name__.upper(), help=default
    )
