"""The report, as text and in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, Page, sync_playwright
from support import FirstRow, run_model, tiny_images, tiny_suite

from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED
from benchmarks.records.leaderboard import leaderboard
from benchmarks.records.predictions import save
from benchmarks.records.published import published
from benchmarks.records.runs import Row, append, read_runs, run_of
from benchmarks.report.figures import cue_shares, cues_figure
from benchmarks.report.page import N_DISPUTED, _figures, write_report
from benchmarks.suites import ALL_SUITES, SUITES
from cgn.counterfactuals.sheets import write_png
from cgn.data.image_set import to_images

SUITE = tiny_suite()
IMAGES = SUITE.variants(EMBEDDED)
PREDICTIONS = evaluate(FirstRow(), IMAGES)[0]
MODELS = {"good": 0, "middling": 3, "bad": 2, "middling/shape": 1, "<i>odd": 4}


def with_misses(every: int) -> pd.DataFrame:
    """Miss one image of so many."""
    missed = PREDICTIONS["index"] % every == 0 if every else PREDICTIONS["index"] < 0
    wrong = (PREDICTIONS["shape"] + 1) % 3
    return PREDICTIONS.assign(prediction=PREDICTIONS["shape"].where(~missed, wrong))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for model, every in MODELS.items():
        for seed in (0, 1):
            run_model(folder, with_misses(every), model=model, seed=seed)
    write_png(to_images(IMAGES["easy"].pixels[0]), folder / "sheet.png")
    sheets = {"tiny-world": (folder / "sheet.png").read_bytes()}
    write_report(folder / "report.html", folder, [SUITE], {"tiny": IMAGES}, sheets)
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser_page(report: Path) -> Iterator[tuple[Page, list[str]]]:
    """The report in headless Chromium, and what it complained of."""
    complaints: list[str] = []
    system = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox"])
        except Error:
            if system:
                raise
            pytest.skip("no browser: install chromium, or run `playwright install chromium`")
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(f"asked for {request.url}"))
        page.goto(report.as_uri())
        yield page, complaints
        browser.close()


def names(page: Page) -> list[str]:
    return page.locator(".board tbody tr:visible th").all_inner_texts()


def test_the_page_needs_nothing_but_itself(report: Path) -> None:
    addresses = re.findall(r"(?:src|srcset|href)=\"([^\"]*)", report.read_text())
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_names_from_files_are_text_and_not_markup(report: Path) -> None:
    text = report.read_text()
    assert "<i>odd" not in text
    assert "&lt;i&gt;odd" in text


def test_the_same_results_give_the_same_page(report: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    sheets = {"tiny-world": (report.parent / "sheet.png").read_bytes()}
    write_report(again, report.parent, [SUITE], {"tiny": IMAGES}, sheets)
    assert again.read_bytes() == report.read_bytes()


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no rows to report"):
        write_report(tmp_path / "x.html", tmp_path, [SUITE], {"tiny": IMAGES}, {})
    assert not (tmp_path / "x.html").exists()


def first_row(results: Path) -> dict[str, Any]:
    """Cells of the first row of `runs.csv`."""
    return {str(name): cell for name, cell in read_runs(results).iloc[0].items()}


def cells_of(page: str, caption: str) -> list[list[str]]:
    """Texts of the cells of a table, a list a row, without its head."""
    body = page.split(caption)[1].split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in body.split("<tr>")[1:]]


def digits_read(n_right: int) -> pd.DataFrame:
    """Predictions of 1,000 images, of which so many are right, in both variants."""
    images = pd.DataFrame({"index": range(1_000), "id": range(1_000), "confidence": 0.5})
    labels = images["index"] % 10
    factors = dict.fromkeys(("shape", "texture", "background"), labels)
    prediction = labels.where(images["index"] < n_right, (labels + 1) % 10)
    both = [
        images.assign(variant=v, **factors, prediction=prediction) for v in ("biased", "unbiased")
    ]
    return pd.concat(both, ignore_index=True)


def test_published_scores_stand_beside_ours_with_verdict_and_source(tmp_path: Path) -> None:
    suite, caption = SUITES["wildlife-mnist"], "beside what was published"
    run_model(tmp_path, PREDICTIONS, seed=0)
    of_tiny = first_row(tmp_path) | {"suite": suite.name, "model": "cgn"}
    of_tiny |= {"protocol": suite.protocol, "variant": "unbiased", "metric": "accuracy"}

    def page(source: str) -> str:
        for seed, n_right in enumerate((813, 814, 815)):
            row = Row(**of_tiny | {"seed": seed, "source": source, "value": n_right / 1_000})
            run = run_of(asdict(row))
            save(digits_read(n_right), run.path(tmp_path), run)
            append([row], tmp_path)
        images = {suite.name: {"unbiased": tiny_images(0, n=1_000)}}
        write_report(tmp_path / "r.html", tmp_path, [suite], images, {})
        return (tmp_path / "r.html").read_text()

    assert caption not in page("embedded")  # whose scores nobody has published
    rows = {row[0]: row[1:] for row in cells_of(page("official"), caption)[::-1]}
    assert rows["CNN, CGN images"] == [
        "reproduction",
        "81.4 [80.6, 82.2]",
        "cgn",
        "81.4 [78.9, 83.7]",
        "inside",
        "Bagad et al., ReScience C 2022, Table 3",
    ]
    assert rows["CNN, original and GAN images"][2:5] == [
        "gan",
        "\u2013",
        "not run: gan on official data",
    ]
    assert len(rows) == len(set(published(suite)["model"]))


def test_the_effects_of_factors_are_drawn_and_said_in_words(tmp_path: Path) -> None:
    suite = ALL_SUITES["attribution-colored-mnist"]
    run_model(tmp_path, PREDICTIONS, seed=0)
    common = first_row(tmp_path)
    common |= {"suite": suite.name, "protocol": suite.protocol, "source": "official"}
    values = {"do_shape_shapley_value": 0.25, "do_texture_shapley_value": 0.75, suite.primary: 0.25}
    rows = [
        Row(**common | {"variant": s.variant, "metric": s.metric, "value": values[s.key]})
        for s in suite.scores
        if s.key in values
    ]
    append([replace(row, low=row.value - 0.1, high=row.value + 0.1) for row in rows], tmp_path)
    drawn = _figures(suite, leaderboard(read_runs(tmp_path), suite, tmp_path), {}, "base")
    (figure,) = drawn
    assert figure["alt"] == "erm: shape 25 %, texture 75 %"
    assert figure["light"] != figure["dark"]


def test_disputed_images_are_those_with_the_most_answers(report: Path) -> None:
    text = report.read_text()
    shown = re.findall(r"<figcaption>(?:a|b|c)\s*<ul>(.*?)</ul>", text, flags=re.DOTALL)
    assert 0 < len(shown) <= N_DISPUTED
    assert all("✗" in answers and "✓" in answers for answers in shown)


def test_shares_of_cues_leave_out_images_without_conflict() -> None:
    seen = pd.DataFrame(
        {
            "variant": "v",
            "shape": [0, 0, 0, 1],
            "texture": [1, 0, 2, 2],
            "background": [2, 2, 1, 0],
            "prediction": [0, 0, 1, 2],
        }
    )
    shares = cue_shares(seen, "v")
    assert shares == pytest.approx(
        {"shape": 1 / 3, "texture": 1 / 3, "background": 1 / 3, "neither": 0}
    )


def test_texture_that_goes_with_shape_is_one_cue_with_it() -> None:
    seen = pd.DataFrame(
        {
            "variant": "v",
            "shape": [0, 1],
            "texture": [0, 1],
            "background": [1, 0],
            "prediction": [0, 0],
        }
    )
    assert cue_shares(seen, "v") == {"object": 0.5, "background": 0.5, "neither": 0.0}
    assert cue_shares(seen.assign(background=-1), "v") == {}


def test_a_figure_is_drawn_for_light_and_for_dark_pages() -> None:
    figure = cues_figure({"erm": {"shape": 0.4, "neither": 0.6}})
    assert "#1a1a1a" in figure.light
    assert "#e8e8e8" in figure.dark
    assert figure == cues_figure({"erm": {"shape": 0.4, "neither": 0.6}})


def test_the_browser_finds_no_fault_and_asks_for_nothing(
    browser_page: tuple[Page, list[str]], report: Path
) -> None:
    page, complaints = browser_page
    outside = [c for c in complaints if not c.startswith(("asked for data:", "asked for file:"))]
    assert outside == []
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert widths
    assert all(widths)


def test_a_click_sorts_a_table_and_another_turns_it(browser_page: tuple[Page, list[str]]) -> None:
    page, _ = browser_page
    ranked = names(page)
    assert ranked == ["good", "<i>odd", "middling", "bad"]
    button = page.get_by_role("button", name="hard accuracy")
    button.click()
    assert names(page) == ranked
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("hard accuracy")
    button.click()
    assert names(page) == ranked[::-1]
    page.get_by_role("button", name="rank").click()
    assert (names(page)[0], names(page)[-1]) == ("good", "bad")  # between them is a tie


def test_the_filter_leaves_models_by_name_and_heads_only_when_asked(
    browser_page: tuple[Page, list[str]],
) -> None:
    page, _ = browser_page
    search = page.get_by_label("Models")
    search.fill("mid")
    assert names(page) == ["middling"]
    page.get_by_label("single heads").check()
    assert sorted(names(page)) == ["middling", "middling/shape"]
    assert page.get_by_role("status").inner_text() == "2 shown"
    page.get_by_label("single heads").uncheck()
    search.fill("")
    assert len(names(page)) == 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_an_accessibility_audit_finds_nothing(
    browser_page: tuple[Page, list[str]], width: int, scheme: str
) -> None:
    page, _ = browser_page
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
