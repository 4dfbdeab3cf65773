"""The report in a real browser: it renders, sorts, shows images at the pointer, and asks nobody for anything."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from afa_dist.errors import UserError
from afa_dist.report.blocks import Cell, Section, Table
from afa_dist.report.page import write_page
from afa_dist.report.sources import collect
from tests.report.browser import Seen

ROOT = Path(__file__).parents[2]
ODD = "</script><script>fetch('http://evil.example/x')</script> \"'&<b>"


@pytest.fixture(scope="module")
def runs(trained_run, tmp_path_factory):
    """A trained run, two evaluations and an analysis of it, beside each other."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained_run.path, folder / "trained")
    for name, attacks in (("weak", "pgd-5"), ("strong", "pgd-10,apgd-ce")):
        command = [sys.executable, ROOT / "jobs/evaluate.py", "--model", "trained", "--runs_dir", ".", "--name", name]
        command += ["--threat.eps", "0.1", "--attacks", attacks, "--scaling.threads", "1", "--scaling.workers", "0"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    command = [sys.executable, ROOT / "jobs/analyse.py", "--model", "trained", "--runs_dir", ".", "--images", "60"]
    command += ["--threat.eps", "0.1", "--steps", "5", "--scaling.threads", "1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder


def report(folder, *arguments):
    command = [sys.executable, str(ROOT / "jobs/report.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_comparison_in_the_browser(runs, browser, tmp_path):
    done = report(runs, "weak", "strong", "--out", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    path = tmp_path / "page.html"
    seen = Seen(browser, path)
    page = seen.page
    summaries = {name: json.loads((runs / name / "evaluation/summary.json").read_text()) for name in ("weak", "strong")}
    # The figures are those of the summaries.
    text = page.locator("#accuracy table").inner_text()
    for summary in summaries.values():
        for entry in summary["accuracies"].values():
            low, high = entry["interval_95"]
            assert f"{100 * entry['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in text
    assert text.count("not AutoAttack") == 2
    assert page.locator("#accuracy thead button").first.text_content() == "model"
    assert "different attacks" in page.locator("#accuracy .warning").all_inner_texts()[-1]
    # The table sorts, in both directions, and what is missing goes last.
    headings = page.locator("#accuracy thead button").all_text_contents()
    number = headings.index("all attacks") + 1
    for _ in range(2):
        page.locator("#accuracy thead button", has_text="all attacks").click()
        values = [float(cell.split()[0]) for cell in seen.column(number)]
        direction = page.locator(f"#accuracy thead th:nth-child({number})").get_attribute("aria-sort")
        assert values == sorted(values, reverse=direction == "descending") and len(set(values)) == 2
    for _ in range(2):
        page.locator("#accuracy thead button", has_text="apgd-ce").click()
        assert seen.column(headings.index("apgd-ce") + 1)[-1] == "-"
    # Charts are drawn, pictures are there, each with words for whoever cannot see it.
    charts = page.locator(".chart")
    assert charts.count() >= 10
    assert all(charts.nth(i).locator("svg").count() for i in range(charts.count()))
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0 && image.alt)")
    assert page.locator("#examples .strip").count() > 10
    assert (
        "python jobs/" in page.locator("#provenance pre").first.text_content()
        or "evaluate.py" in page.locator("#provenance pre").nth(1).text_content()
    )
    seen.fine(path)


def test_the_pointer_shows_the_image_of_a_feature(runs, browser, tmp_path):
    path = tmp_path / "page.html"
    done = report(runs, "strong", "--out", str(path))
    assert done.returncode == 0, done.stderr
    seen = Seen(browser, path)
    page, pointer = seen.page, seen.page.locator("#pointer")
    assert not pointer.is_visible()
    figure = page.locator("#features figure")
    points = figure.locator(".point")
    assert points.count() == 2 * 60
    shown = set()
    for index in (0, 30, 60, 119):
        points.nth(index).scroll_into_view_if_needed()
        points.nth(index).hover(force=True)
        pointer.wait_for(state="visible", timeout=5000)
        picture = pointer.locator("div")
        style = picture.evaluate("(e) => [getComputedStyle(e).backgroundImage.slice(0, 20), e.style.backgroundPosition]")
        assert style[0].startswith('url("data:image/png')
        words = pointer.inner_text()
        assert re.fullmatch(r"(clean|attacked): \d, taken for \d", words)
        assert index < 60 or words.startswith("attacked") or index != 119
        shown.add((style[1], words))
        page.mouse.move(2, 2)
    assert len(shown) == 4
    before = figure.locator(".point").first.get_attribute("transform")
    figure.locator("button", has_text="PCA").click()
    page.wait_for_function("(t) => document.querySelector('#features .point').getAttribute('transform') !== t", arg=before)
    seen.fine(path)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_shows_all_without_scrolling_sideways(runs, browser, scheme):
    done = report(runs, "strong")
    assert done.returncode == 0, done.stderr
    path = runs / "strong/report.html"
    seen = Seen(browser, path, width=380, scheme=scheme)
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert seen.page.locator("#accuracy tbody th").first.bounding_box()["width"] > 90
    ground = "getComputedStyle(document.body).backgroundColor"
    before = seen.page.evaluate(ground)
    assert (before == "rgb(255, 255, 255)") == (scheme == "light")
    assert contrast(before, seen.page.evaluate("getComputedStyle(document.body).color")) > 7
    seen.page.locator("#theme").click()
    assert seen.page.evaluate(ground) != before
    seen.fine(path)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2)."""

    def luminance(colour):
        parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_texts_of_others_are_texts(browser, tmp_path):
    """Names of runs, classes and attacks come from files that somebody else may have written."""
    table = Table(ODD, ["model", ODD], [[Cell(ODD, ODD, head=True), Cell(ODD, 1.0)]])
    from afa_dist.report.blocks import Figure

    figure = Figure(ODD, ODD, {"data": [{"type": "bar", "name": ODD, "x": [ODD], "y": [1]}], "layout": {}})
    section = Section("accuracy", ODD, ODD, [ODD], [table], [figure], [], [(ODD, ODD)])
    write_page(tmp_path / "odd.html", ODD, [section, Section("empty", "not shown")])
    seen = Seen(browser, tmp_path / "odd.html")
    assert seen.page.title().strip() == ODD.strip()
    assert seen.page.locator("h1").inner_text() == ODD.strip()
    assert seen.page.locator("#empty").count() == 0
    seen.fine(tmp_path / "odd.html")


def test_what_a_report_is_made_of_is_found(runs, tmp_path):
    (entry, other) = sorted(collect([str(runs / "trained")]), key=lambda entry: entry.evaluation.directory.path.name)
    assert [entry.evaluation.directory.path.name, other.evaluation.directory.path.name] == ["strong", "weak"]
    assert [stage.title for stage in entry.stages] in ([], ["trained"])
    with pytest.raises(UserError) as caught:
        collect([str(runs / "none"), str(tmp_path)])
    assert len(caught.value.problems) == 2


def test_a_report_of_nothing_is_refused(runs, tmp_path):
    for arguments, words in (([], "missing"), (["nowhere"], "holds no finished"), (["weak", "--out", "x.pdf"], ".html")):
        done = report(runs, *arguments)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
