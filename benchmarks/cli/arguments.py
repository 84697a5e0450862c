"""Types of the arguments of commands, and how their words become values."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from cyclopts import App, ArgumentCollection, Parameter, Token
from cyclopts.config import Dict

from benchmarks.cli.errors import did_you_mean
from benchmarks.core.suite import DataSource, Suite
from benchmarks.data.generators import training_preset
from benchmarks.data.sources import choose_source
from benchmarks.suites import ALL_SUITES, GROUPS
from benchmarks.suites.data_sets import DATA_SETS
from cgn.device.distributed import own_device
from cgn.io.schema import RANGES, user_path
from cgn.training.imagenet_config import IMAGENET_PRESETS
from classifiers import MODELS
from classifiers.networks.pretrained import specs_of

Entry = TypeVar("Entry")
ROOT = Path(__file__).parents[2]


def in_checkout(name: str) -> Path:
    """Choose a folder of the checkout if it is the place of work, or else of the place of work."""
    is_here = (ROOT / "pyproject.toml").is_file() and Path.cwd().is_relative_to(ROOT)
    return Path(os.path.relpath(ROOT / name)) if is_here else Path(name)


RESULTS = in_checkout("results")
WEIGHTS = in_checkout("classifiers/weights")


def path_type(check: Callable[[Path, str], None], metavar: str) -> Parameter:
    """Make the parameter of a path that has to pass a check before any work starts."""

    def read(_: object, tokens: Sequence[Token]) -> Path:
        path = user_path(tokens[0].value)
        check(path, tokens[0].value)
        return path

    return Parameter(converter=read, metavar=metavar)


def require_file(path: Path, _: str) -> None:
    """Refuse what is no file."""
    if not path.is_file():
        is_folder = path.is_dir()
        raise ValueError(f"expected a file, {path} is a folder" if is_folder else f"no file {path}")


def require_folder(path: Path, _: str) -> None:
    """Refuse what is no folder."""
    if not path.is_dir():
        is_there = path.exists()
        raise ValueError(
            f"expected a folder, {path} is a file" if is_there else f"no folder {path}"
        )


def require_new_folder(path: Path, _: str) -> None:
    """Refuse a path that leads through a file."""
    for each in (path, *path.parents):
        if each.exists() and not each.is_dir():
            raise ValueError(f"expected a folder, {each} is a file")


def require_new_file(*endings: str) -> Callable[[Path, str], None]:
    """Make the check of a file to write: it may be there, and its name has one of the endings."""

    def check(path: Path, text: str) -> None:
        if path.is_dir() or text.endswith(("/", "/.")):
            raise ValueError(f"expected a file, {path} is a folder")
        if endings and path.suffix.lower() not in endings:
            raise ValueError(f"expected a file *{' or *'.join(endings)}, got {path}")
        require_new_folder(path.parent, "")

    return check


def read_source(kind: Callable[[Path, str], None], mark: str) -> Callable[..., str]:
    """Make the reader of a path, or of a word with a mark, which says where else to look."""

    def read(_: object, tokens: Sequence[Token]) -> str:
        text = tokens[0].value
        if mark in text:
            return text
        path = user_path(text)
        kind(path, text)
        return str(path)

    return read


ReadFile = Annotated[Path, path_type(require_file, "FILE")]
ReadFolder = Annotated[Path, path_type(require_folder, "FOLDER")]
NewFolder = Annotated[Path, path_type(require_new_folder, "FOLDER")]
NewFile = Annotated[Path, path_type(require_new_file(), "FILE")]
NewWeights = Annotated[Path, path_type(require_new_file(".safetensors"), "FILE")]
NewPage = Annotated[Path, path_type(require_new_file(".html", ".htm"), "FILE")]
Images = Annotated[str, Parameter(converter=read_source(require_folder, "hub:"), metavar="FOLDER")]
WeightsSource = Annotated[str, Parameter(converter=read_source(require_file, ":"), metavar="FILE")]
Results = Annotated[NewFolder, Parameter(help="Folder of results.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    Parameter(help="Where networks run; auto takes a GPU if there is one."),
]
Settings = Parameter(name="*", negative=None)  # flags of a config's fields, and --no-FLAG
CommandText = Annotated[str, Parameter(parse=False)]
ConfigFile = Annotated[
    ReadFile | None,
    Parameter(name="--config", metavar="FILE", help="TOML file of settings; flags count more."),
]


def split_names(text: str) -> list[str]:
    """Split names at commas.

    Raises:
        ValueError: If one is empty.

    Example:
        >>> split_names("erm,cgn")
        ['erm', 'cgn']
    """
    names = text.split(",")
    if not all(name.strip() for name in names):
        raise ValueError(f"expected names with single commas between them, got {text!r}")
    return names


def find(
    names: Iterable[str], known: Mapping[str, Entry], kind: str, groups: Mapping[str, Sequence[str]]
) -> list[Entry]:
    """Look names up, each once.

    Args:
        names: Names of entries and of groups.
        known: Entries by name.
        kind: What an entry is, for the message.
        groups: Names of entries by the name of their group.

    Raises:
        ValueError: If a name is unknown; the message has the nearest, or says what has this name.

    Example:
        >>> find(["b", "few"], {"a": 1, "b": 2, "c": 3}, "number", {"few": ["a", "b"]})
        [2, 1]
    """
    single = [one for name in names for one in groups.get(name, [name])]
    for name in single:
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; {hint(name, kind, [*known, *groups])}")
    return [known[name] for name in dict.fromkeys(single)]


def kind_of(name: str) -> str:
    """Say what has a name: a model, a suite or a data set; empty if nothing has it.

    Example:
        >>> kind_of("cgn"), kind_of("in9"), kind_of("x")
        ('model', 'suite', '')
    """
    kinds: dict[str, Iterable[str]] = {
        "model": MODELS,
        "suite": [*ALL_SUITES, *GROUPS],
        "data set": DATA_SETS,
    }
    return next((kind for kind, names in kinds.items() if name in names), "")


def hint(name: str, kind: str, candidates: Iterable[str]) -> str:
    """Say what an unknown name may have meant: a name that is near, another kind, or networks.

    Example:
        >>> hint("cgn", "suite", ["in9"])
        'it is the name of a model; see `bench.py list`'
        >>> hint("in8", "suite", ["in9"])
        "did you mean 'in9'? See `bench.py list`"
        >>> hint("resnet50", "model", ["erm-resnet"])[:60]
        'as a pretrained network write timm:resnet50.a1_in1k or tv:re'
    """
    if other := kind_of(name):
        return f"it is the name of a {other}; see `bench.py list`"
    if kind == "model" and (specs := specs_of(name)):
        first = {
            spec.partition(":")[0]: spec for spec in reversed(specs)
        }  # of timm, of torchvision
        return f"as a pretrained network write {' or '.join(sorted(first.values()))}"
    near = get_close_matches(name, list(candidates), n=1)
    return f"did you mean {near[0]!r}? See `bench.py list`" if near else "see `bench.py list`"


def find_suites(text: str) -> list[Suite]:
    """Look up suites and groups of suites, with commas between their names.

    Example:
        >>> [suite.name for suite in find_suites("in9,mnists")]
        ['in9', 'colored-mnist', 'double-colored-mnist', 'wildlife-mnist']
    """
    return find(split_names(text), ALL_SUITES, "suite", GROUPS)


def find_one(text: str, known: Mapping[str, Entry], kind: str) -> Entry:
    """Look up one name.

    Raises:
        ValueError: If it is unknown, or there are several.
    """
    found = find(split_names(text), known, kind, {})
    if len(found) > 1:
        raise ValueError(f"expected the name of one {kind}, got {text!r}")
    return found[0]


Suites = Annotated[
    tuple[Suite, ...],
    Parameter(
        converter=lambda _, tokens: tuple(find_suites(tokens[0].value)),
        n_tokens=1,
        accepts_keys=False,
        negative=(),
        metavar="NAME[,NAME]",
    ),
]
ModelName = Annotated[
    str,
    Parameter(
        converter=lambda _, tokens: find_one(tokens[0].value, MODELS, "model").name, metavar="NAME"
    ),
]


def trainable() -> dict[str, Suite]:
    """Return the suites whose classifiers, and CGNs, are trained here, by name."""
    return {name: suite for name, suite in ALL_SUITES.items() if not suite.official}


OneSuite = Annotated[
    Suite,
    Parameter(
        converter=lambda _, tokens: find_one(tokens[0].value, trainable(), "suite"),
        accepts_keys=False,
        n_tokens=1,
        metavar="NAME",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Data:
    """Where a suite's images come from.

    Attributes:
        data: "embedded", "official" or a folder; without it official data if it lies in
            $CGN_BENCH_DATA, else embedded.
        textures: Wildlife pictures for wildlife-mnist, as `object/*.jpg` and
            `background/*.jpg`.
    """

    data: Annotated[str | None, Parameter(metavar="FOLDER")] = None
    textures: ReadFolder | None = None

    def source(self, suite: Suite, correlation: float = 1.0) -> DataSource:
        """Choose where the data of a suite comes from; see `choose_source`."""
        return choose_source(suite, self.data, self.textures, correlation)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingData(Data):
    """Where a suite's images come from, and how biased training images are.

    Attributes:
        correlation: How often texture and background follow the class in the training images of
            the MNISTs, in (0.1, 1].
    """

    correlation: float = 1.0

    def source(self, suite: Suite, correlation: float | None = None) -> DataSource:
        """Choose where the data of a suite comes from; see `choose_source`."""
        return super().source(suite, self.correlation if correlation is None else correlation)


def resolve_device(name: str) -> torch.device:
    """Turn the word for a device into one that is there.

    Args:
        name: "cpu" or "cuda"; any other word means the best there is.

    Returns:
        The CPU, or the GPU of this process.

    Raises:
        ValueError: If there is no GPU and one is asked for.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("PyTorch sees no GPU here; leave `device` out to use the CPU")
    return own_device(torch.device("cuda")) if there and name != "cpu" else torch.device("cpu")


def fill_settings(app: App, command: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill settings that were not given: from a TOML file, then from the preset.

    Raises:
        ValueError: If the file cannot be read.
    """
    given = {each.name: each.tokens[0].value for each in arguments if each.tokens}
    sources = []
    if "--config" in given:
        sources.append((given["--config"], read_toml(given["--config"])))
    if command == ("train", "cgn") and given.get("--suite") in trainable():
        world = trainable()[given["--suite"]].world
        sources.append((world.name, asdict(training_preset(world))))
    if given.get("--preset") in IMAGENET_PRESETS:
        sources.append((given["--preset"], asdict(IMAGENET_PRESETS[given["--preset"]])))
    for name, settings in sources:
        Dict(settings, source=name, use_commands_as_keys=False)(app, command, arguments)


def read_toml(text: str) -> dict[str, Any]:
    """Read a file of settings.

    Raises:
        ValueError: If there is none, or it is no TOML.
    """
    path = user_path(text)
    require_file(path, text)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no TOML file: {error}") from None


def check_words(arguments: ArgumentCollection) -> None:
    """Refuse words that cannot be meant: empty ones, no choices, and numbers out of range.

    Raises:
        ValueError: If there is one; the message names the flag.
    """
    for argument in arguments:
        name, choices = argument.name, argument.get_choices()
        for text in (each.value for each in argument.tokens if each.source == "cli"):
            if argument.hint is bool:
                continue
            if not text.strip() or text == "--":
                got = repr(text) if text.strip() else "nothing"
                raise ValueError(f"{name}: expected a word, got {got}")
            if choices and text not in choices:
                near = did_you_mean(text, choices)
                raise ValueError(f"{name}: expected {', '.join(choices)}, got {text!r}{near}")
            if argument.hint in (int, float, int | None, float | None):
                check_number(name, argument.field_info.name, text, argument.hint)


def check_number(flag: str, name: str, text: str, kind: object) -> None:
    """Refuse what is no number, or out of the range of its setting.

    Raises:
        ValueError: If it does not fit.
    """
    is_whole = kind in (int, int | None)
    try:
        value = int(text) if is_whole else float(text)
    except ValueError:
        wanted = "a whole number" if is_whole else "a number"
        raise ValueError(f"{flag}: expected {wanted}, got {text!r}") from None
    if name in RANGES and (problem := RANGES[name].problem(value)):
        raise ValueError(f"{flag} {problem}")
