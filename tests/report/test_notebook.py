"""Forms for notebooks: small, without scripts, escaped, and readable on light and dark ground."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import tlx
from tlx import Data, Recipe, Study, Train, models, param, report, tasks
from tlx.records import studies
from tlx.report import notebook, reading
from tlx.types import Column

MOST_BYTES = 100_000
EVIL = "<script>window.hit=1</script><img src=x onerror='window.hit=2'>"
RECIPE = Recipe(
    data=Data(target="digits", target_classes=(EVIL, "b")),
    task=tasks.Classification(),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
    train=Train(steps=8, batch=16),
)


class Tags(HTMLParser):
    """Collect the elements of a piece of HTML, its attributes, and its text outside of the style."""

    def __init__(self, html):
        super().__init__()
        self.names, self.attributes, self.words, self.open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.attributes += attributes
        if tag not in ("img", "br", "path", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, text):
        if "style" not in self.open:
            self.words.append(text)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def checked(html):
    """Return the elements of a form after the checks that every form must pass."""
    assert len(html.encode()) < MOST_BYTES
    tags = Tags(html)
    assert not tags.open, f"{tags.open} is not closed"
    assert "script" not in tags.names and "iframe" not in tags.names and "link" not in tags.names
    for name, value in tags.attributes:
        assert not name.startswith("on"), name
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#")), value
    # Colours are those of the notebook, or read on white and on black.
    colours = set(re.findall(r"#[0-9a-fA-F]{6}\b", html))
    assert colours <= {notebook.ACCENT, notebook.WARM, notebook.GOOD, notebook.OTHER}, colours
    return tags


def test_a_run_without_its_folder_has_no_page_and_says_so(digits, tmp_path):
    moved = digits._replace(folder=tmp_path / "gone")
    assert moved._repr_html_() is None and "gone" in repr(moved)
    with pytest.raises(FileNotFoundError, match="gone no longer contains the run"):
        moved.plot.curves()


def test_a_run_shows_its_metrics_with_intervals_its_curves_and_its_mistakes(digits):
    records = reading.read(digits.folder)
    tags = checked(digits._repr_html_())
    assert "95 % interval" in tags.text and tags.names.count("svg") == 2
    for metric in ("accuracy", "macro F1"):
        assert metric in tags.text
    assert f"{records.result['metrics']['test/accuracy']:.1%}".replace("%", "\xa0%") in " ".join(tags.words)
    for mistake in records.mistakes[: notebook.MISTAKES]:
        assert f"label {mistake['label']}" in tags.text.replace("label  ", "label ")
    assert "img" in tags.names


def test_a_run_of_a_study_shows_what_it_has(small_study):
    study = studies.read(small_study)
    cell = [cell for cell in study.cells if cell.state == "done"][1]
    task = tasks.Classification().resolve({"label": Column("class", tuple("0123456789"))})
    tags = checked(notebook.run_html(cell.folder, task))
    assert "test/accuracy" in tags.text


def test_a_recipe_shows_the_code_that_makes_it():
    tags = checked(RECIPE._repr_html_())
    assert "Mlp(inputs=(8, 8, 1), widths=(16,))" in tags.text and EVIL in " ".join(tags.words)
    # Fields at their defaults are left out.
    assert "eval_batch" not in tags.text


def test_a_study_shows_its_question_and_its_cells():
    study = Study(base=RECIPE, cells=param("seed", range(30)), question=f"Does it {EVIL} matter?")
    tags = checked(study._repr_html_())
    assert f"Does it {EVIL} matter?" in " ".join(tags.words)
    assert "30 cells" in tags.text and "and 18 more" in tags.text


def test_the_results_of_a_study_show_every_arm_with_its_interval(small_study):
    records = studies.read(small_study)
    tags = checked(records._repr_html_())
    assert records.question in tags.text and "svg" in tags.names
    assert tags.names.count("tr") == 1 + len(studies.compare(records).summaries)
    assert any(comparison.verdict in tags.text for comparison in studies.compare(records).comparisons)


def test_a_study_without_a_finished_cell_shows_its_state(small_study):
    records = studies.read(small_study)
    cells = tuple(cell._replace(state="waiting", result=None) for cell in records.cells)
    tags = checked(records._replace(cells=cells)._repr_html_())
    assert f"{len(cells)} waiting" in tags.text


def test_texts_and_classes_with_markup_are_shown_as_they_are(attacked):
    tags = checked(notebook.run_html(attacked.folder, reading.read(attacked.folder).task))
    assert attacked.markup[:40] in " ".join(tags.words)


def test_a_page_shows_its_run_or_its_study(digits, small_study):
    assert report.Page(digits.folder / "report.html")._repr_html_() == digits._repr_html_()
    assert report.Page(small_study / "report.html")._repr_html_() == studies.read(small_study)._repr_html_()


def test_without_the_extra_there_is_no_form(monkeypatch, digits):
    monkeypatch.setattr(notebook, "available", lambda: False)
    assert RECIPE._repr_html_() is None and digits._repr_html_() is None


@pytest.mark.parametrize("ground", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.067, 0.067, 0.067)])
def test_the_colours_read_on_light_and_on_dark_ground(ground):
    def luminance(values):
        values = np.asarray(values)
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for colour in (notebook.ACCENT, notebook.WARM, notebook.GOOD, notebook.OTHER):
        values = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        low, high = sorted((luminance(values), luminance(ground)))
        # The contrast that WCAG 2 asks of large letters and of drawings.
        assert (high + 0.05) / (low + 0.05) >= 3


def test_importing_tlx_needs_no_notebook():
    assert tlx.notebooks.html_of("html:escape", "<") == "&lt;"
