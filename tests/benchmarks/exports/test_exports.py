"""Exports are what other tools read: each is checked with the tool's own schema or library."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import jsonschema
import mlcroissant as mlc
import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from support import DATA, FirstRow, patch_suites, run_model, tiny_suite

from benchmarks import cli
from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED, DataSource, TestSet
from benchmarks.exports.croissant import CONFORMS_TO, write_croissant
from benchmarks.exports.eval_results import write_eval_results
from benchmarks.exports.every_eval_ever import evaluation_record, write_every_eval_ever
from benchmarks.exports.tables import write_tables
from benchmarks.records.leaderboard import leaderboards
from benchmarks.records.runs import read_runs
from benchmarks.report.table import Table, interval
from benchmarks.suites import ALL_SUITES
from benchmarks.worlds.mnists import MATERIAL

SUITE = tiny_suite()
SCHEMA = json.loads((DATA / "every_eval_ever-0.3.0.schema.json").read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    table = evaluate(FirstRow(), SUITE.variants(EMBEDDED))[0]
    wrong = table.assign(prediction=(table["prediction"] + (table["id"] % 4 == 0)) % 3)
    for seed in (0, 1):
        run_model(folder, table, model="good", seed=seed)
        run_model(folder, wrong, model="shipped:bad/shape", seed=seed)
    return folder


def test_records_follow_the_schema_and_say_what_the_leaderboard_says(
    results: Path, tmp_path: Path
) -> None:
    boards = leaderboards(results, [SUITE])
    files = write_every_eval_ever(boards, read_runs(results), tmp_path)
    assert len(files) == 2
    for file in files:
        record = json.loads(file.read_text())
        jsonschema.Draft202012Validator(SCHEMA).validate(record)
        model = record["model_info"]["name"]
        row = boards[0][1].set_index("model").loc[model]
        scores = {each["evaluation_result_id"]: each for each in record["evaluation_results"]}
        hard = scores["1#hard_accuracy"]["score_details"]
        assert hard["score"] == row["hard_accuracy"]
        ends = hard["uncertainty"]["confidence_interval"]
        assert (ends["lower"], ends["upper"]) == tuple(
            row[["hard_accuracy_low", "hard_accuracy_high"]]
        )
        assert scores["1#easy-hard_gap"]["metric_config"]["lower_is_better"]
    before = {file: file.read_bytes() for file in files}
    assert write_every_eval_ever(boards, read_runs(results), tmp_path) == files
    assert {file: file.read_bytes() for file in files} == before


def test_undefined_scores_and_infinite_ranges_are_written_as_the_schema_has_them(
    results: Path,
) -> None:
    suite = ALL_SUITES["attribution-colored-mnist"]
    blank = {
        f"{score.key}{end}": 0.5 for score in suite.all_scores for end in ("", "_low", "_high")
    }
    row = {"model": "erm", "source": "embedded", "data_sha256": "0" * 64, "interval": "images"}
    row |= {"seeds": 3, "generators": 0, **blank, suite.primary: np.nan}
    time = pd.Timestamp("2026-01-01", tz="UTC").to_pydatetime()
    record = evaluation_record(suite, row, time)
    jsonschema.Draft202012Validator(SCHEMA).validate(record)
    metrics = {
        each["evaluation_result_id"].split("#")[1]: each["metric_config"]
        for each in record["evaluation_results"]
    }
    assert suite.primary not in metrics
    assert metrics["base_log_odds_total_effect"]["max_score"] == "Infinity"


def test_the_hubs_own_library_reads_the_results(results: Path, tmp_path: Path) -> None:
    boards, runs = leaderboards(results, [SUITE]), read_runs(results)
    files = write_eval_results(boards, runs, "owner/name", tmp_path)
    names = {file.relative_to(tmp_path).as_posix() for file in files}
    assert names == {
        "good/.eval_results/tiny-embedded.yaml",
        "shipped--bad__shape/.eval_results/tiny-embedded.yaml",
    }
    for file in files:
        entries = parse_eval_result_entries(yaml.safe_load(file.read_text()))
        assert entries[0].task_id == "tiny-easy_accuracy"
        assert {each.dataset_id for each in entries} == {"owner/name"}
        assert "protocol 1, embedded data, 2 seeds" in str(entries[0].notes)
    with pytest.raises(ValueError, match="must be OWNER/NAME on the Hub, got 'name'"):
        write_eval_results(boards, runs, "name", tmp_path)


def tiny_test_set() -> TestSet:
    suite = replace(SUITE, world=replace(SUITE.world, material=MATERIAL))
    return TestSet(suite, EMBEDDED, suite.variants(EMBEDDED), "0" * 64, suite.protocol)


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated")  # by that library itself
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_the_library_of_croissant_finds_no_fault_and_reads_every_image(tmp_path: Path) -> None:
    test = tiny_test_set()
    _, metadata = write_croissant(test, tmp_path, date(2026, 1, 1))
    written = json.loads(metadata.read_text())
    assert written["conformsTo"] == list(CONFORMS_TO)
    dataset = mlc.Dataset(str(metadata))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert not issues.warnings
    for name in ("dataBiases", "dataLimitations", "personalSensitiveInformation", "dataUseCases"):
        assert written[f"rai:{name}"]
    records = list(dataset.records("images"))
    assert len(records) == 80
    first, images = records[40], test.variants["hard"]
    assert first["images/variant"] == b"hard"
    pixels = np.asarray(first["images/image"].convert("RGB")).transpose(2, 0, 1)
    assert (pixels == images.pixels[0].numpy()).all()
    assert first["images/texture"] == int(images.factors.texture[0])


def test_images_of_unknown_origin_are_not_published(tmp_path: Path) -> None:
    test = tiny_test_set()
    unknown = replace(test, suite=SUITE)
    custom = replace(test, source=DataSource(folder=tmp_path))
    for each in (unknown, custom):
        with pytest.raises(ValueError, match="no embedded images whose origin and licence"):
            write_croissant(each, tmp_path, date(2026, 1, 1))


@pytest.mark.parametrize("name", [name for name, suite in ALL_SUITES.items() if suite.embedded])
def test_every_embedded_suite_says_where_its_images_come_from(name: str) -> None:
    material = ALL_SUITES[name].world.material
    assert material is not None
    assert material.licence.startswith("https://")


def test_leaderboards_become_tables(results: Path, tmp_path: Path) -> None:
    boards = leaderboards(results, [SUITE])
    (latex,) = write_tables(boards, "latex", tmp_path)
    (markdown,) = write_tables(boards, "markdown", tmp_path)
    assert latex.name == "tiny-embedded.tex"
    assert r"shipped:bad/shape &" in latex.read_text()
    assert "| good |" in markdown.read_text()
    assert "protocol 1" in markdown.read_text()


def test_latex_shows_every_character_as_it_is() -> None:
    table = Table(["a_b", "50 %"], "R&D", "x < y").add("[1]", interval(0.5, 0.4, 0.6), is_bold=True)
    table.add("\\{}", "\N{MINUS SIGN}1 ± 2")
    lines = table.to_latex().splitlines()
    assert r"\caption{R\&D x \textless{} y}" in lines
    assert r"a\_b & 50 \% \\" in lines
    assert r"\textbf{[1]} & \textbf{50.0 [40.0, 60.0]} \\" in lines
    assert r"\textbackslash{}\{\} & $-$1 $\pm$ 2 \\" in lines
    assert r"{}[1] \\" in Table(["n"]).add("[1]").to_latex()


def test_the_command_writes_each_format(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    patch_suites(monkeypatch, {"tiny": tiny_test_set().suite})
    common = ["--results", str(results), "--suite", "tiny", "--out"]
    for form, end in (("latex", "tex"), ("markdown", "md"), ("every-eval-ever", "json")):
        assert cli.main(["export", form, *common, str(tmp_path / form)]) == 0
        assert list((tmp_path / form).rglob(f"*.{end}"))
    assert cli.main(["export", "eval-results", *common, str(tmp_path / "hub")]) == 2
    assert "name it in --dataset" in capsys.readouterr().err
    assert cli.main(["export", "croissant", *common, str(tmp_path / "sets")]) == 0
    assert (tmp_path / "sets/tiny/croissant.json").is_file()
