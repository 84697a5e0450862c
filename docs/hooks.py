"""MkDocs hooks: pages and tables that are made from the repository itself.

`<!-- generated: NAME -->` in a page becomes a table from the registry of suites or models. The API
reference gets a page for each folder of modules, and three files of the repository become pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from benchmarks.suites import ALL_SUITES, GROUPS
from classifiers import MODELS

ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "cgn", "classifiers")
NOT_LIBRARY = "benchmarks.cli"  # the command line is no Python interface
SHOWN_BY_PACKAGE = "benchmarks.api"  # `benchmarks` exports its names
REPOSITORY_FILES = {
    "data-dictionary.md": "results/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
LINK = re.compile(r", (https://[^\s,]+)")
FIGURE = re.compile(r"!\[(.*?)\]\(\.\./results/(\w+)-light\.svg\)")
INTERVAL = re.compile(r"\[(\S+), (\S+)\]")  # its ends stay on one line
BY_THEME = r"![\1](images/\2-light.svg#only-light)![\1](images/\2-dark.svg#only-dark)"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the API reference to the navigation."""
    pages = [{name: f"api/{name}.md"} for name in folders()]
    config.nav = [*(config.nav or []), {"API reference": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the API reference, and files of the repository as pages and figures."""
    for name, modules in folders().items():
        title = f"::: {name}\n    options: {{heading_level: 1}}"
        text = "\n\n".join([title, *(f"::: {module}" for module in modules if module != name)])
        files.append(File.generated(config, f"api/{name}.md", content=text))
    for page, source in REPOSITORY_FILES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    for figure in (ROOT / "results").glob("*-*.svg"):
        text = figure.read_text(encoding="utf-8")
        files.append(File.generated(config, f"images/{figure.name}", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put generated tables in their places and links to files of the repository on the site."""
    for name, make in GENERATED.items():
        mark = f"<!-- generated: {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    for target, source in REPOSITORY_FILES.items():
        markdown = markdown.replace(f"](../{source}", f"]({target}")
    lines = [
        INTERVAL.sub("[\\1,\N{NO-BREAK SPACE}\\2]", line) if line.startswith("|") else line
        for line in FIGURE.sub(BY_THEME, markdown).splitlines()
    ]
    return "\n".join(lines)


def folders() -> dict[str, list[str]]:
    """Return the public modules of each folder, by the folder's dotted name."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            folder, name = ".".join(parts[:-1]), parts[-1]
            if f"{folder}.{name}" == SHOWN_BY_PACKAGE:
                continue
            if folder != NOT_LIBRARY and not name.startswith("_"):
                found.setdefault(folder, []).append(f"{folder}.{name}")
            elif folder != NOT_LIBRARY and name == "__init__":
                found.setdefault(folder, []).insert(0, folder)
    return dict(sorted(found.items()))


def suites_table(names: Iterable[str]) -> str:
    """Show what each suite asks, on which variants, and by which score it ranks."""
    return table(
        ["suite", "question", "scores of", "ranked by"],
        [
            [
                f"`{suite.name}`",
                suite.question,
                ", ".join(dict.fromkeys(score.variant for score in suite.scores)),
                f"`{suite.primary}`",
            ]
            for suite in map(ALL_SUITES.__getitem__, names)
        ],
    )


def official_suites() -> list[str]:
    """Name the suites on the published images, which are in no group."""
    grouped = {name for group in GROUPS.values() for name in group}
    return [name for name in ALL_SUITES if name not in grouped]


def protocols_table() -> str:
    """Show the other protocols of each suite that has some."""
    lines = [
        [f"`{suite.name}`", f"`{protocol.name}`", protocol.about]
        for suite in ALL_SUITES.values()
        for protocol in suite.protocols
    ]
    return table(["suite", "protocol", "what it does differently"], lines)


def models_table() -> str:
    """Show the recipes: training images, extra supervision, rule of selection and source."""
    lines = [
        [
            f"`{recipe.name}`",
            recipe.about,
            ", ".join(recipe.trains_on),
            recipe.extra_supervision or "none",
            recipe.selected_on,
            LINK.sub(r" [(paper)](\1)", recipe.source),
        ]
        for recipe in MODELS.values()
    ]
    about = ["what it is", "training images", "extra supervision", "selected on", "source"]
    return table(["model", *about], lines)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Lay out a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


GENERATED: dict[str, Callable[[], str]] = {
    "official suites": lambda: suites_table(official_suites()),
    "protocols": protocols_table,
    "models": models_table,
}
GENERATED |= {f"suites of {group}": partial(suites_table, names) for group, names in GROUPS.items()}
