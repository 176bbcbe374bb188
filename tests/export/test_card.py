"""Model cards: they state what the records state, and foreign texts change nothing of their structure."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import tlx
from tlx import models, tasks
from tlx.export import export_run
from tlx.export.card import NAME, card, limits, records_of, values_of, without_defaults
from tlx.export.markdown import block, code, one_line, plain
from tlx.report import intervals
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The directory of an exported run in the Hugging Face layout."""
    return export_run(run.folder, tmp_path_factory.mktemp("card") / "model").directory


@pytest.fixture(scope="session")
def document(exported):
    """The model card as the client of the hub reads it."""
    return ModelCard.load(exported / NAME)


def tables(text):
    """The tables of a page as lists of rows, each a list of the texts of its cells, as a browser shows them."""
    rows, result = None, []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            rows = []
            result.append(rows)
        elif token.type == "table_close":
            rows = None
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            assert all(child.type in ("text", "code_inline", "text_special") for child in token.children), token.content
            rows[-1].append("".join(child.content for child in token.children))
    return result


def table_of(document, head):
    (rows,) = (rows for rows in tables(document.text) if rows[0][0] == head)
    return rows[1:]


def test_every_form_has_a_card(run, exported, tmp_path):
    program = export_run(run.folder, tmp_path / "program", to="stablehlo").directory
    for folder, library in ((exported, "tlx"), (program, "jax")):
        document = ModelCard.load(folder / NAME)
        assert document.data.library_name == library
        for head in ("## Use", "## Results", "## Data", "## Classes", "## Training", "## Limits"):
            assert document.text.count(f"\n{head}\n") == 1


def test_the_header_has_the_metrics_of_the_run_with_their_intervals(run, document):
    assert document.data.license == "unknown" and document.data.base_model is None
    assert {"tlx", "transfer-learning"} <= set(document.data.tags)
    assert document.data.pipeline_tag == "image-classification"
    results = {f"{item.dataset_split}/{item.metric_type}": item for item in document.data.eval_results}
    assert {name: item.metric_value for name, item in results.items()} == run.metrics
    predictions = records_of(run.folder).predictions["test"]
    interval = intervals.measure("accuracy", predictions, run.recipe.task)
    low, high = (float(word) for word in results["test/accuracy"].metric_name.split(" interval ")[1].split(" to "))
    np.testing.assert_allclose((low, high), interval[:2], atol=1e-3)


def test_the_tables_have_the_numbers_of_the_records(run, document):
    measured = {f"{split}/{name}": row for split, name, *row in table_of(document, "split")}
    assert measured.keys() == run.metrics.keys()
    for name, (value, interval, method, count) in measured.items():
        assert float(value) == pytest.approx(run.metrics[name], rel=1e-3)
        assert count == f"{run.result['examples'][name.split('/')[0]]:,}"
        if interval != "–":
            low, high = map(float, interval.split(" to "))
            assert low <= run.metrics[name] + 1e-3 and run.metrics[name] - 1e-3 <= high and method
    assert dict(table_of(document, "examples")) == {name: f"{n:,}" for name, n in run.result["examples"].items()}
    for part in (run.result["fingerprint"], run.result["data"], f"step {run.result['selected_step']} of 3"):
        assert part in document.text
    # The rule that chose the checkpoint, and what it means for the numbers.
    assert "`best-validation`" in document.text and "favour" in document.text


def test_names_with_signs_of_markdown_and_yaml_stay_texts(run, document):
    names = [row[1] for row in table_of(document, "output")]
    assert names == [one_line(name) for name in run.recipe.task.names]
    labels = np.load(run.folder / "predictions" / "test.npz")["label"]
    counts = [int(row[2].replace(",", "")) for row in table_of(document, "output")]
    assert counts == np.bincount(labels, minlength=10).tolist()


@pytest.mark.parametrize(
    "text",
    ["a|b", "# head", "- item", "+ x", "1. one", "2) two", "<b>x</b>", "&lt;", "![i](u)", "[a][b]", "a\nb", "www.x.org",
     "http://x.org", "a@b.org", "~~gone~~", "$x$", "```", "`` ` ``", "\\", "**b**", "_i_", "> quote", "\x00\x1b[31m",
     "\u202eright", "😀", "|", "---", "===", "\t tab"],
)  # fmt: skip
def test_a_foreign_text_is_one_text(text):
    page = MarkdownIt("gfm-like", {"linkify": False})
    for form in (plain(text), code(text)):
        for start, line in (("", form), ("", f"* {form}"), ("a ", f"a {form}")):
            tokens = page.parse(line)
            (inline,) = (token for token in tokens if token.type == "inline")
            assert {token.type for token in tokens} <= {
                "paragraph_open", "paragraph_close", "inline", "bullet_list_open", "bullet_list_close",
                "list_item_open", "list_item_close",
            }, line  # fmt: skip
            shown = "".join(child.content for child in inline.children)
            assert {child.type for child in inline.children} <= {"text", "text_special", "code_inline"}, line
            assert shown == start + one_line(text), line
    (fence,) = page.parse(block(text + "\n```\nmore"))
    assert fence.type == "fence"


def test_a_model_without_records_says_that_nothing_is_known(tmp_path):
    model = models.build(models.Mlp(inputs=(4, 4, 1), widths=(5,)), 2)
    variables = models.initialise(model, jax.random.key(0))
    task = tasks.Classification(classes=2, names=("a", "b"))
    pretrained = Pretrained(model, Variables(variables.params, {}), None, Manifest("a/b", {}, ()), task)
    assert records_of(tmp_path) is None
    text = card(pretrained, None, "huggingface", "tlx", "use")
    assert "no record" in text and "## Results" not in text
    assert "model-index" not in text and "metrics" not in text


def test_what_was_not_measured_is_a_limit(run, exported, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / "files.json").unlink()
    result = json.loads((folder / "result.json").read_text())
    result["metrics"] = {name: value for name, value in result["metrics"].items() if not name.startswith("test/")}
    result |= {"test_split": "not looked at", "notes": ["a note of the run | with a sign"]}
    (folder / "result.json").write_text(json.dumps(result))
    records, pretrained = records_of(folder / "model"), tlx.load_pretrained(folder)
    assert records.folder == folder and {value.split for value in values_of(records)} == {"validation"}
    lines = list(limits(pretrained, records))
    assert any("was not evaluated" in line for line in lines) and any("seed 0" in line for line in lines)
    # A class with few examples in the reported split is named.
    counts = np.bincount(records.predictions["validation"].scores["label"], minlength=10)
    (few,) = (line for line in lines if "fewer than" in line)
    assert [n for n, name in enumerate(run.recipe.task.names) if plain(name) in few] == np.where(counts < 20)[
        0
    ].tolist()
    assert "a note of the run \\| with a sign" in card(pretrained, records, "huggingface", "tlx", "")


def test_a_damaged_record_stops_the_export(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / "result.json").write_text((folder / "result.json").read_text().replace('"seed": 0', '"seed": 7'))
    with pytest.raises(ValueError, match=r"result\.json"):
        export_run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_defaults_are_left_out_of_the_recipe(run):
    short = without_defaults(tlx.config.dump(run.recipe))
    assert short["data"] == {"kind": "Data", "target": "digits", "shots": 4}
    assert short["train"] == {"kind": "Train", "steps": 3, "batch": 8, "eval_batch": 512, "select": "best-validation"}
    again = tlx.config.load(tlx.config.dump(dataclasses.replace(run.recipe)) | short, tlx.recipe.classes())
    assert again == run.recipe


def test_a_blend_has_its_rule_and_its_runs(run, tmp_path):
    blended = tmp_path / "blend"
    shutil.copytree(run.folder / "model", blended)
    document = {"metrics": {"validation/accuracy": 0.625}, "selection": "a `rule`", "kind": "soup",
                "ingredients": [{"run": "runs/a*b"}, {"run": "runs/c"}], "notes": ["one | note"]}  # fmt: skip
    (blended / "blend.json").write_text(json.dumps(document))
    text = (export_run(blended, tmp_path / "out").directory / NAME).read_text()
    for part in (
        "| validation | accuracy | 0.6250 |",
        "`` a `rule` ``",
        "`a*b`",
        "`c`",
        "one \\| note",
        "no intervals",
    ):
        assert part in text
    (blended / "blend.json").write_text(json.dumps(document | {"metrics": {"validation/accuracy": "good"}}))
    with pytest.raises(ValueError, match=r"blend\.json"):
        export_run(blended, tmp_path / "other")


RECORDS = ("recipe.json", "result.json", "environment.json", "files.json", "predictions/test.npz")


@pytest.mark.parametrize("name", RECORDS)
def test_a_directory_in_the_place_of_a_record_is_refused(name, run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(IsADirectoryError, match=rf"{name} is a directory; expected a file"):
        export_run(folder, tmp_path / "model")
