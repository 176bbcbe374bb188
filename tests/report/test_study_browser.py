"""The page of a study in a real browser: drawn without a network, filtered, downloaded, with working links."""

import csv
import io
import json
import re
import shutil
from collections import Counter

import pytest

from tlx import report
from tlx.report import page

pytestmark = pytest.mark.browser


@pytest.fixture
def study_page(small_study):
    return report.write_study(small_study)


def visible_charts(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('figure.drawing:not([hidden]) .plot')].map("
        "p => [p.parentNode.id, p.querySelectorAll('svg').length, p.querySelectorAll('path[d], text').length])"
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_drawn_without_network_requests(browser, show, sized, study_page, width):
    sized(width)
    requested, output = show(study_page)
    assert not output
    assert not [url for url in requested if not url.startswith(("data:", study_page.as_uri()))]
    actual = visible_charts(browser)
    assert len(actual) == len(page.specification(study_page.read_text(encoding="utf-8")))
    assert all(count == 1 and marks > 5 for _, count, marks in actual), actual
    inner, outer = browser.execute_script("const e = document.documentElement; return [e.clientWidth, e.scrollWidth]")
    assert outer == inner <= width
    ends = "return [...document.querySelectorAll('.plot svg')].map(s => s.getBoundingClientRect().right)"
    assert max(browser.execute_script(ends)) <= inner


def test_a_phone_shows_difference_and_verdict_next_to_long_names(browser, show, sized, study_page):
    sized(390)
    show(study_page)
    right = browser.execute_script(
        "const table = document.querySelector('#compared table');"
        "table.querySelector('thead th').firstChild.textContent = 'a rather long name of a method';"
        "table.querySelectorAll('tbody tr td:first-child').forEach(c => c.textContent = 'probe of random features');"
        "return Math.max(...[...table.querySelectorAll('.shown-cell')].map(c => c.getBoundingClientRect().right))"
    )
    assert 0 < right <= 390


def choose(browser, name, value):
    """Press a choice of the filters and wait until everything is drawn again."""
    browser.execute_async_script(
        "const [name, value, done] = arguments; document.querySelector(`#filters [name='${name}'][value='${value}']`)"
        ".click(); tlx.redraw().then(done)",
        name, value,
    )  # fmt: skip


def visible_rows(browser, section):
    return browser.execute_script(
        f"return [...document.querySelectorAll('#{section} tbody tr:not([hidden])')].map(r => r.dataset.arm)"
    )


def points(browser, figure):
    return browser.execute_script(f"return document.querySelectorAll('#figure-{figure} .mark-symbol > path').length")


def test_filters_act_on_tables_charts_and_downloads(browser, show, downloads, study_page):
    show(study_page)
    assert len(visible_rows(browser, "compared")) == 4 + 2
    assert points(browser, "seeds-shots-4") == 6
    choose(browser, "method", "probe")
    assert set(visible_rows(browser, "compared")) == {"full · shots 4", "full · shots 16"}
    assert (
        set(visible_rows(browser, "cost"))
        == set(visible_rows(browser, "cells"))
        == {"full · shots 4", "full · shots 16"}
    )
    assert points(browser, "seeds-shots-4") == 3
    # All differences are those of the probe.
    assert browser.execute_script("return document.getElementById('figure-differences').hidden")
    rows = list(csv.DictReader(io.StringIO(downloads("seeds-shots-4", "csv"))))
    assert [(row["method"], row["seed"]) for row in rows] == [("full", seed) for seed in ("0", "1", "2", "")]
    assert rows[-1]["part"] == "means"
    assert "probe" not in downloads("seeds-shots-4", "svg")
    choose(browser, "shots", "4")
    assert visible_rows(browser, "compared") == ["full · shots 16"]
    assert browser.execute_script("return document.querySelector('#filters output').textContent") == "1 of 4 arms"
    browser.execute_async_script(
        "const [done] = arguments; document.querySelector('#filters [type=reset]').click();"
        "setTimeout(() => tlx.redraw().then(done))"
    )
    assert points(browser, "seeds-shots-4") == 6
    assert len(visible_rows(browser, "compared")) == 4 + 2
    assert not browser.get_log("browser")


def test_any_field_of_the_recipes_is_a_filter_too(browser, show, study_page):
    show(study_page)
    fields = browser.execute_script(
        "return [...document.querySelectorAll('#filters details legend')].map(l => l.textContent)"
    )
    assert fields == ["data.shots", "tuning.kind", "tuning.decay"]
    # Hidden until requested.
    recorded = "return document.querySelector('#filters details fieldset').checkVisibility()"
    assert not browser.execute_script(recorded)
    browser.execute_script("document.querySelector('#filters summary').click()")
    assert browser.execute_script(recorded)
    choose(browser, "tuning.kind", "Probe")
    assert set(visible_rows(browser, "compared")) == {"full · shots 4", "full · shots 16"}
    choose(browser, "data.shots", "16")
    assert set(visible_rows(browser, "compared")) == set(visible_rows(browser, "cells")) == {"full · shots 4"}
    assert points(browser, "seeds-shots-4") == 3
    # With a column.
    choose(browser, "shots", "4")
    assert not visible_rows(browser, "compared")
    assert browser.execute_script("return document.querySelector('#filters output').textContent") == "0 of 4 arms"


# A browser lets a page save only a few files at once, so this test catches them before they reach the disk.
CAUGHT = """
const done = arguments[0], kept = [];
let blob;
URL.createObjectURL = (given) => ((blob = given), "data:,");
URL.revokeObjectURL = () => {};
HTMLAnchorElement.prototype.click = function () { kept.push([this.download, blob]); };
const buttons = [...document.querySelectorAll("[data-save]")];
(async () => {
  for (const [n, button] of buttons.entries()) {
    button.click();
    while (kept.length <= n) await new Promise((next) => setTimeout(next, 10));
  }
  done(Object.fromEntries(await Promise.all(kept.map(async ([name, held]) => [name, await held.text()]))));
})();
"""


def test_every_figure_is_downloaded_as_svg_and_its_data_as_csv(browser, show, study_page):
    show(study_page)
    drawings = page.specification(study_page.read_text(encoding="utf-8"))
    files = browser.execute_async_script(CAUGHT)
    assert files.keys() == {f"{name}.{kind}" for name in drawings for kind in ("svg", "csv")}
    for name, spec in drawings.items():
        assert files[f"{name}.svg"].startswith("<svg")
        rows = list(csv.DictReader(io.StringIO(files[f"{name}.csv"])))
        stored = {part: len(inputs) for part, inputs in spec["datasets"].items()}
        parts = Counter(row["part"] for row in rows) if len(stored) > 1 else {"table": len(rows)}
        assert parts == stored
        assert {"method", "shots", "arm"} <= set(rows[0])
        assert "anchor" not in rows[0]
    # The drawn values beside the points: the mean of each arm and its interval.
    for name in ("seeds-shots-4", "by-shots"):
        rows = list(csv.DictReader(io.StringIO(files[f"{name}.csv"])))
        means = [row for row in rows if row["part"] == "means"]
        for row in means:
            runs = [one for one in rows if one["part"] == "table" and one["arm"] == row["arm"]]
            assert float(row["mean"]) == pytest.approx(sum(float(one["value"]) for one in runs) / len(runs))
            assert float(row["low"]) < float(row["mean"]) < float(row["high"])
            assert (row["method"], row["shots"]) == (runs[0]["method"], runs[0]["shots"])
        assert len(means) == len({row["arm"] for row in rows})


def test_a_click_on_a_point_or_a_seed_opens_the_run(browser, show, small_study, study_page):
    show(study_page)
    addresses = browser.execute_script("return [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    drawings = page.specification(study_page.read_text(encoding="utf-8"))
    seeds = [row for name in ("seeds-shots-4", "seeds-shots-16") for row in drawings[name]["datasets"]["table"]]
    runs = {address for address in addresses if not address.startswith("#")} | {row["href"] for row in seeds}
    fingerprints = {cell["fingerprint"] for cell in json.loads((small_study / "study.json").read_text())["cells"]}
    # Every cell except the one that has not begun.
    assert len({address.split("/")[1] for address in runs} & fingerprints) == len(fingerprints) - 1
    for address in runs:
        assert re.fullmatch(r"cells/[0-9a-f]{16}/(report\.html|result\.json|failed\.json)", address)
        assert (small_study / address).is_file()
    [value] = small_study.glob("cells/*/report.html")
    target = value.relative_to(small_study).as_posix()
    from selenium.webdriver.common.action_chains import ActionChains

    # The first run of the study belongs to the first point: `full`, 4 shots, seed 0.
    assert seeds[0]["href"] == target
    point = browser.find_element("css selector", "#figure-seeds-shots-4 .mark-symbol > path")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    ActionChains(browser).move_to_element(point).click().perform()
    assert browser.current_url == value.as_uri()


def test_every_number_of_an_arm_links_to_its_runs(browser, show, study_page):
    show(study_page)
    numbers = browser.execute_script(
        "return [...document.querySelectorAll('#compared tbody tr, #cost tbody tr')].flatMap(row =>"
        "[...row.querySelectorAll('td.number')].filter(cell => /\\d/.test(cell.textContent)).map(cell => {"
        "  const link = cell.querySelector('a[href^=\"#\"]');"
        "  return [row.dataset.arm, link && document.querySelector(link.getAttribute('href')).dataset.arm];"
        "}))"
    )
    # Means, intervals, differences and related numbers; the table of all statistics; the costs.
    assert len(numbers) > 4 * 2 + 2 * 4 + 2 * 9 + 4 * 4
    assert all(arm == target for arm, target in numbers)
    output = browser.execute_script(
        "return [...document.querySelectorAll('#answer a')].map(a => document.querySelector(a.hash).dataset.arm)"
    )
    assert output == ["probe · shots 4", "probe · shots 16"]


def test_a_click_on_a_mean_opens_the_runs_of_its_arm(browser, show, study_page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    listed = "return [...document.querySelectorAll('#cells tbody tr')].filter(r => r.matches(arguments[0]))"
    drawings = page.specification(study_page.read_text(encoding="utf-8"))
    for figure, rows in (("cost-seconds", "table"), ("differences", "table"), ("by-shots", "means")):
        show(study_page)
        browser.execute_script("document.querySelector('#cells details').open = false")
        # The means are drawn last.
        means = browser.find_elements("css selector", f"#figure-{figure} .mark-symbol.role-mark")[-1]
        point = means.find_element("tag name", "path")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
        ActionChains(browser).move_to_element(point).click().perform()
        first = drawings[figure]["datasets"][rows][0]
        WebDriverWait(browser, 10).until(lambda _: browser.execute_script(f"{listed}.length", ".pointed"))
        assert browser.current_url == f"{study_page.as_uri()}{first['anchor']}"
        assert browser.execute_script("return document.querySelector('#cells details').open")
        value = f"[data-arm='{first['arm']}']"
        assert browser.execute_script(listed, ".pointed") == browser.execute_script(listed, value)
    assert not browser.get_log("browser")


def test_names_with_markup_do_nothing(browser, show, small_study, tmp_path):
    evil = "</script><script>window.hit=1</script><img src=x onerror='window.hit=2'>{{7*7}}\u2028"
    out = tmp_path / "study"
    shutil.copytree(small_study, out, ignore=shutil.ignore_patterns("files.json"))
    document = json.loads((out / "study.json").read_text())
    for cell in document["cells"]:
        cell["names"] = {("__proto__" if name == "shots" else name): value for name, value in cell["names"].items()}
        if cell["names"]["method"] == "probe":
            cell["names"]["method"] = evil
    document |= {"question": evil, "name": evil, "command": evil}
    (out / "study.json").write_text(json.dumps(document))
    [failed] = out.glob("cells/*/failed.json")
    failed.write_text(json.dumps({"error": evil, "traceback": evil, "time": 0}))
    (out / "plan.jsonl").write_text(json.dumps({"how": evil, "why": evil, "cells": [], "arms": 1}) + "\n")
    _, output = show(report.write_study(out))
    assert not output
    assert browser.execute_script("return window.hit") is None
    choose(browser, "method", "full")
    assert len(set(visible_rows(browser, "compared"))) == 2
    assert not browser.get_log("browser")
