"""The results of a study as a table: in memory, in files, and on a terminal."""

import pytest
from filelock import FileLock

from tlx import Study, choice, param, prod
from tlx.study import results, run_study, table
from tlx.study.base import document, settle
from tlx.tasks import Classification
from tlx.tuning import Probe

pandas = pytest.importorskip("pandas")
METRICS = list(Classification(classes=10).measures)


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    """The table of a study of three methods, one of which is invalid."""
    methods = choice("method", {"probe": {"tuning": Probe()}, 2: {}, "bad": {"task.classes": 3}})
    study = Study(base=base, cells=prod(methods, param("seed", 0, 1)), question="Does it?")
    folder = tmp_path_factory.mktemp("studies") / "small"
    return run_study(study, folder, quiet=True)


def test_a_row_is_a_cell_and_a_metric(run):
    frame = results(run.folder)
    assert list(frame.columns) == [
        "fingerprint", "method", "seed", "state", "split", "metric", "value", "selection", "selected_step", "steps",
        "seconds", "trainable",
    ]  # fmt: skip
    outcome = frame[frame.state == "done"]
    assert len(outcome) == 4 * 2 * len(METRICS)
    for cell in run.cells[:4]:
        value = outcome[outcome.fingerprint == cell.fingerprint]
        assert dict(zip(value.split + "/" + value.metric, value.value, strict=True)) == cell.metrics
        assert set(value.method) == {str(cell.names["method"])}
        assert set(value.seed) == {cell.seed}
        assert set(value.trainable) == {cell.result["parameters"]["trainable"]}
        assert set(value.seconds) == {sum(cell.result["seconds"].values()) / cell.result["pack"]["arms"]}
    assert set(outcome.selection) == {"last"}
    assert (outcome.steps == 3).all()


def test_an_unfinished_cell_has_a_row_without_a_metric(run):
    frame = results(run.folder)
    failed = frame[frame.state != "done"]
    assert list(failed.state) == ["failed", "failed"]
    assert list(failed.seed) == [0, 1]
    assert failed[["split", "metric", "value", "seconds"]].isna().all(axis=None)


def test_the_files_have_the_same_table(run):
    frame = results(run.folder)
    pandas.testing.assert_frame_equal(pandas.read_parquet(run.folder / "results.parquet"), frame)
    text = pandas.read_csv(run.folder / "results.csv")
    assert list(text.columns) == list(frame.columns)
    assert list(text.value.dropna()) == list(frame.value.dropna())


def test_a_study_without_a_seed_column_has_the_seed_of_the_recipe(base, tmp_path):
    outcome = run_study(Study(base=base, cells=[{}], question="?"), tmp_path / "study", quiet=True)
    assert set(results(outcome.folder).seed) == {0}


def test_a_study_that_has_not_begun_is_a_table_of_waiting_cells(small, tmp_path):
    settle(tmp_path / "study", document(small, "x"))
    with FileLock(tmp_path / "study" / "claims" / f"{small.cells[0].fingerprint}.lock"):
        assert list(results(tmp_path / "study").state) == ["running", "waiting"]
    assert table.markdown(tmp_path / "study") == "| seed | steps | seconds | trainable |\n| --- | ---: | ---: | ---: |"


def test_markdown_has_one_line_per_finished_cell(run):
    head, rule, *lines = table.markdown(run.folder).splitlines()
    metrics = "test/accuracy | test/macro_f1 | test/loss | test/ece"
    assert head == f"| method | seed | {metrics} | steps | seconds | trainable |"
    assert rule.count("---:") == 7
    assert [line.split(" | ")[:2] for line in lines] == [["| probe", "0"], ["| probe", "1"], ["| 2", "0"], ["| 2", "1"]]
    assert all(line.endswith(" | 90 |") for line in lines[:2])


def test_a_missing_study_and_a_missing_extra_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as raised:
        results(tmp_path)
    assert str(raised.value) == f"{tmp_path} contains no study: there is no study.json"
    actual = table.find_spec
    monkeypatch.setattr(table, "find_spec", lambda name: None if name == "pandas" else actual(name))
    with pytest.raises(ImportError) as missing:
        results(tmp_path)
    assert str(missing.value) == "a table of results needs pandas: pip install 'tlx[study]'"
