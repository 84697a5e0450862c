"""The wheel works without the repository: installed elsewhere, run from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import ROOT

PARTS = ("benchmarks", "cgn", "classifiers", "bench.py", "pyproject.toml", "README.md", "LICENSE")


def command(*words: str | Path, cwd: Path, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        words, cwd=cwd, env=inherited | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment with the wheel, and with this one's libraries."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    command(*pip, "wheel", *offline, "--wheel-dir", folder, folder / "source", cwd=folder)
    command(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    bin_folder = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    (wheel,) = folder.glob("*.whl")
    there = ("--python", bin_folder / "python")
    command(*pip, *there, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (site_packages,) = (folder / "env").rglob("site-packages")
    # A line of a .pth file adds a folder, but not what the .pth files in it add.
    (site_packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return bin_folder


def test_the_installed_command_scores_a_shipped_model_and_leaves_rows_where_it_runs(
    installed: Path, tmp_path: Path
) -> None:
    where = command(
        installed / "python", "-c", "import benchmarks; print(benchmarks.__file__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(installed.parent)
    words = ("--suite", "colored-mnist", "--model", "shipped:cgn-ensemble", "--device", "cpu")
    cache = str(tmp_path / "cache")
    table = command(installed / "cgn-bench", *words, cwd=tmp_path, CGN_BENCH_CACHE=cache)
    assert "shipped:cgn-ensemble" in table
    assert (tmp_path / "results" / "runs.csv").is_file()
    assert (tmp_path / "results" / "colored-mnist.csv").is_file()
