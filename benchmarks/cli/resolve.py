"""What the words of a command choose: suites, data, device, settings; and what does not fit.

Which words there are is not here: see `benchmarks.cli.arguments`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.cli.arguments import training_settings
from benchmarks.core.suite import DataSource, Suite
from benchmarks.data.sources import choose_source
from benchmarks.suites import ALL_SUITES, GROUPS
from cgn.device.distributed import own_device
from cgn.training.imagenet_config import ImageNetTrainConfig
from cgn.training.small import TrainConfig

log = logging.getLogger(__name__)

Entry = TypeVar("Entry")
Config = TypeVar("Config", TrainConfig, ImageNetTrainConfig)


def resolve_names(
    text: str, known: Mapping[str, Entry], kind: str, groups: Mapping[str, Sequence[str]]
) -> list[Entry]:
    """Look names up, each once.

    Args:
        text: Names of entries and groups, with commas between them.
        known: Entries by name.
        kind: What an entry is, for the message.
        groups: Names of entries by the name of their group.

    Returns:
        The entries in the order of their names.

    Raises:
        ValueError: If a name is unknown; the message has the nearest.

    Example:
        >>> resolve_names("b,few", {"a": 1, "b": 2, "c": 3}, "number", {"few": ["a", "b"]})
        [2, 1]
    """
    names = [name for part in text.split(",") for name in groups.get(part, [part])]
    for name in names:
        if name not in known:
            near = get_close_matches(name, [*known, *groups], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown {kind} {name!r}; {hint}See `bench.py list`")
    return [known[name] for name in dict.fromkeys(names)]


def require_place_of(options: argparse.Namespace) -> None:
    """Refuse a set of counterfactuals whose number is missing, or a picture that is no PNG file.

    Args:
        options: `n`, `combine`, `interpolate`, `to` and `out`, as on the command line.

    Raises:
        ValueError: If one does not go with the others.
    """
    out: Path = options.out
    if options.combine or options.interpolate:
        if out.suffix.lower() != ".png" or out.is_dir():
            raise ValueError(f"a picture is written to a file *.png, which {out} is not")
        if options.interpolate and options.to is None:
            raise ValueError("--interpolate needs --to, the class it ends with")
    elif "n" not in options:
        raise ValueError("how many? say --n; or draw a picture with --combine or --interpolate")
    elif out.exists() and not out.is_dir():
        raise ValueError(f"a set is written to a folder, and {out} is a file")


def resolve_suites(text: str) -> list[Suite]:
    """Look suites up; `mnists` are those that are called so.

    Args:
        text: Names of suites and of groups of them, with commas between them.

    Raises:
        ValueError: If a name is unknown.

    Example:
        >>> [suite.name for suite in resolve_suites("in9,mnists")]
        ['in9', 'colored-mnist', 'double-colored-mnist', 'wildlife-mnist']
    """
    return resolve_names(text, known_suites(), "suite", GROUPS)


def resolve_one(text: str, known: Mapping[str, Entry], kind: str) -> Entry:
    """Look one name up.

    Args:
        text: The name.
        known: Entries by name.
        kind: What an entry is, for the message.

    Raises:
        ValueError: If it is unknown, or there are several.

    Example:
        >>> resolve_one("b", {"a": 1, "b": 2}, "number")
        2
    """
    found = resolve_names(text, known, kind, {})
    if len(found) > 1:
        raise ValueError(f"expected the name of one {kind}, got {text!r}")
    return found[0]


def known_suites() -> dict[str, Suite]:
    """Everything that can be run."""
    return ALL_SUITES


def suites_with_rows(results: Path) -> list[Suite]:
    """Suites that have a leaderboard in a folder of results."""
    return [suite for suite in known_suites().values() if (results / f"{suite.name}.csv").exists()]


def resolve_device(name: str) -> torch.device:
    """Turn the flag into a device that is there.

    Args:
        name: "cpu" or "cuda"; any other word means the best there is.

    Returns:
        The CPU, or the GPU of this process.

    Raises:
        ValueError: If there is no GPU and one is asked for.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("PyTorch sees no GPU here; leave --device out to use the CPU")
    return own_device(torch.device("cuda")) if there and name != "cpu" else torch.device("cpu")


def resolve_config(preset: Config, given: Mapping[str, Any]) -> Config:
    """Replace in a preset what was given on the command line.

    Args:
        preset: The settings where nothing is given.
        given: Values by the name of the setting; a loss weight's name starts with "weight_".

    Raises:
        ValueError: If something was given that only the other scale has.

    Example:
        >>> config = resolve_config(TrainConfig(), {"steps": 7, "weight_style": 2.0})
        >>> config.steps, config.weights.style
        (7, 2.0)
    """
    weights: dict[str, Any] = {
        field.name: given[f"weight_{field.name}"]
        for field in fields(preset.weights)
        if f"weight_{field.name}" in given
    }
    rest: dict[str, Any] = {
        field.name: given[field.name] for field in fields(preset) if field.name in given
    }
    known = {*rest, *(f"weight_{name}" for name in weights)}
    if odd := sorted((training_settings() & given.keys()) - known):
        flags = ", ".join(f"--{name}".replace("_", "-") for name in odd)
        raise ValueError(f"{flags}: not a setting of this scale; see `bench.py train --help`")
    return replace(preset, **rest, weights=replace(preset.weights, **weights))


def source_for(suite: Suite, options: argparse.Namespace) -> DataSource:
    """Choose where a suite's data comes from."""
    return choose_source(suite, options.data, options.textures, options.correlation)
