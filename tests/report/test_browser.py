"""A page in a real browser: everything is drawn, no network request is made, no text becomes code."""

import shutil

import pytest

from tlx import report
from tlx.analysis import changes
from tlx.report import page

pytestmark = pytest.mark.browser


def test_a_browser_draws_every_chart_without_network_requests(browser, show, finished):
    path = report.write_run(finished.folder)
    requested, output = show(path)
    assert not output
    assert not [url for url in requested if not url.startswith(("data:", path.as_uri()))]
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('figure.drawing .plot')].map("
        "p => [p.parentNode.id, p.querySelectorAll('svg').length, p.querySelectorAll('path[d], text').length])"
    )
    assert len(drawn) == len(page.specification(path.read_text(encoding="utf-8")))
    assert all(count == 1 and marks > 5 for _, count, marks in drawn), drawn


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_a_desktop_and_a_phone(browser, show, sized, digits, width):
    sized(width)
    show(report.write_run(digits.folder))
    inner, outer = browser.execute_script("const e = document.documentElement; return [e.clientWidth, e.scrollWidth]")
    assert outer == inner <= width
    ends = "return [...document.querySelectorAll('.plot svg')].map(s => s.getBoundingClientRect().right)"
    assert max(browser.execute_script(ends)) <= inner


def test_markup_in_the_records_does_nothing_in_a_browser(browser, show, attacked):
    _, output = show(report.write_run(attacked.folder))
    assert not output
    assert browser.execute_script("return window.hit") is None
    assert browser.execute_script("return document.querySelectorAll('.plot svg').length") == 8


def test_figures_are_downloaded_and_tables_sorted(browser, show, downloads, digits):
    path = report.write_run(digits.folder)
    show(path)
    assert downloads("train-gradient-norm", "svg").startswith("<svg")
    header, *lines = downloads("train-gradient-norm", "csv").splitlines()
    rows = page.specification(path.read_text(encoding="utf-8"))["train-gradient-norm"]["datasets"]["table"]
    assert header.split(",") == list(rows[0])
    assert [float(line.split(",")[1]) for line in lines] == [row["value"] for row in rows]
    heading = "document.querySelectorAll('#outcome th button')[4]"
    column = "return [...document.querySelectorAll('#outcome tbody tr')].map(r => Number(r.children[4].dataset.sort))"
    before = browser.execute_script(column)
    browser.execute_script(f"{heading}.click()")
    assert browser.execute_script(column) == sorted(before, reverse=True)
    browser.execute_script(f"{heading}.click()")
    assert browser.execute_script(column) == sorted(before)
    assert not browser.get_log("browser")


@pytest.mark.parametrize("width", [1280, 390])
def test_changes_of_weights_are_drawn_on_a_desktop_and_a_phone(browser, show, sized, digits, tmp_path, width):
    shutil.copytree(digits.folder, tmp_path / "run")
    changes.moved(tmp_path / "run", examples=64)
    sized(width)
    _, output = show(tmp_path / "run" / "report.html")
    assert not output
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('#moved .plot')].map(p => p.querySelectorAll('svg path[d]').length)"
    )
    assert len(drawn) == 6
    assert min(drawn) > 5
    inner, outer = browser.execute_script("const e = document.documentElement; return [e.clientWidth, e.scrollWidth]")
    assert outer == inner <= width
