"""Lists of runs: every kind and state, filters, order, intervals, and the time for a thousand directories."""

import json
import shutil
import socket
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from tlx import Data, tasks, tuning
from tlx.cli import main
from tlx.files.documents import digests
from tlx.files.locks import in_use, writing
from tlx.records import listing as records
from tlx.records import studies
from tlx.records.log import write_json
from tlx.records.run_directory import read_predictions
from tlx.report import intervals, listing

HALF = [True, False] * 10


def call(*words):
    return CliRunner().invoke(main, ["runs", *map(str, words)])


def listed(*words):
    outcome = call(*words, "--json")
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.output)


@pytest.fixture
def place(tmp_path, write_run):
    """Runs in every state, in a folder of folders."""
    write_run(tmp_path / "a" / "half", HALF)
    write_run(tmp_path / "a" / "good", [True] * 19 + [False], tuning=tuning.Lora(), seed=3)
    write_run(tmp_path / "b" / "deep" / "waits", HALF, finished=False, changes=[("train.steps", "None", "7")])
    damaged = write_run(tmp_path / "b" / "torn", HALF)
    (damaged / "result.json").write_text("{")
    failed = write_run(tmp_path / "c", HALF, finished=False, data=Data(target="mnist5k", source="digits", shots=4))
    write_json(failed / "failed.json", {"error": "Diverged", "time": 1.0})
    (tmp_path / ".hidden").mkdir()
    write_run(tmp_path / ".hidden" / "run", HALF)
    return tmp_path


def test_every_run_is_found_with_its_state(place):
    states = {str(entry.folder.relative_to(place)): entry.state for entry in records.find(place)}
    assert states == {
        "a/good": "done", "a/half": "done", "b/deep/waits": "unfinished", "b/torn": "damaged", "c": "failed",
    }  # fmt: skip
    assert [entry.folder for entry in records.find(place / "a" / "half")] == [place / "a" / "half"]
    with writing(place / "b" / "deep" / "waits"):
        # The lock of this process counts as that of another one would.
        assert next(iter(records.find(place / "b" / "deep"))).state == "running"
    assert next(iter(records.find(place / "b" / "deep"))).state == "unfinished"


def test_the_lock_of_a_process_that_has_ended_is_not_taken(tmp_path, monkeypatch):
    """A process that begins to write at that instant would find the directory in use."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / ".lock").write_text(f"process {ended.pid} on {socket.gethostname()}")
    monkeypatch.setattr("filelock.FileLock", None)
    assert not in_use(tmp_path)
    (tmp_path / ".lock").unlink()
    assert not in_use(tmp_path)


def test_a_study_is_one_row_and_its_cells_are_runs(small_study):
    (entry,) = records.find(small_study.parent)
    assert (entry.kind, entry.folder, entry.metric) == ("study", small_study, "test/accuracy")
    counts = studies.read(small_study).counts
    assert entry.cells == {name: count for name, count in counts.items() if count}
    study, *cells = records.find(small_study.parent, cells=True)
    assert study == entry
    assert sum(cell.state == "done" for cell in cells) == counts["done"]
    printed = call(small_study.parent).output
    assert f"study: failed ({counts['done']} done" in printed
    assert entry.question in printed


def test_a_row_has_the_summary_the_metric_and_its_interval(place):
    rows = {row["path"]: row for row in listed(place)}
    good = rows[str(place / "a" / "good")]
    assert good["summary"] == "Mlp from scratch on digits, Lora, seed 3"
    assert (good["metric"], good["value"]) == ("test/accuracy", 0.95)
    exact = intervals.wilson(19, 20)
    assert good["interval"] == {"low": exact.low, "high": exact.high}
    assert rows[str(place / "b" / "deep" / "waits")]["summary"] == "Mlp from scratch on digits, train.steps 7"
    assert rows[str(place / "c")]["summary"] == "Mlp from scratch on digits to mnist5k, 4 shots"
    assert "result.json is not JSON" in rows[str(place / "b" / "torn")]["fault"]
    printed = call(place).output
    for part in ("a/good", "test/accuracy 0.9500 [0.7639, 0.9911]", good["fingerprint"], good["date"]):
        assert part in printed


def test_intervals_are_those_of_the_page_and_are_kept_in_the_cache(place, monkeypatch, tmp_path):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    folder = place / "a" / "half"
    digests.write(folder)
    (entry,) = records.find(folder)
    task = tasks.Classification(classes=2, names=("no", "yes"))
    for name in ("accuracy", "macro_f1", "loss"):
        expected = intervals.measure(name, read_predictions(folder, "test"), task)
        for _ in range(2):
            assert listing.row(entry, f"test/{name}").interval == expected
    assert len(list((tmp_path / "cache" / "intervals").iterdir())) == 2
    # From the cache alone.
    monkeypatch.setattr("tlx.report.listing.run_directory.read_predictions", None)
    assert listing.row(entry, "test/macro_f1").interval is not None


def test_filters_keep_the_runs_that_match(place):
    def paths(*words):
        return sorted(row["path"].removeprefix(f"{place}/") for row in listed(place, *words))

    assert paths("--state", "done") == ["a/good", "a/half"]
    assert paths("--state", "failed", "--state", "damaged") == ["b/torn", "c"]
    assert paths("--kind", "study") == []
    assert paths("--where", "tuning=Lora") == ["a/good"]
    assert paths("--where", "tuning.rank=8") == ["a/good"]
    assert paths("--where", "data.target=digits", "--where", "seed=0") == ["a/half", "b/deep/waits", "b/torn"]
    assert paths("--where", "data.shots=4") == ["c"]
    for words, parts in (
        (("--where", "data.shot=4"), ("'data.shot'", "close: 'data.shots'")),
        (("--where", "tuning"), ("--where 'tuning'", "path=value")),
        (("--metric", "test/acuracy"), ("'test/acuracy'", "close: 'test/accuracy'")),
    ):
        outcome = call(place, *words)
        assert outcome.exit_code == 2, outcome.output
        assert all(part in outcome.output for part in parts), outcome.output
    assert "matches" in call(place, "--kind", "study").output
    assert call(place / "no").exit_code == 2


def test_rows_are_sorted(place):
    names = [row["path"].rpartition("/")[2] for row in listed(place, "--sort", "metric")]
    assert names[:2] == ["good", "half"]
    assert [row["path"].rpartition("/")[2] for row in listed(place, "--sort", "metric", "--metric", "test/loss")][
        :2
    ] == ["good", "half"]
    paths = [row["path"] for row in listed(place, "--sort", "path")]
    assert paths == sorted(paths)
    dates = [row["date"] for row in listed(place)]
    assert dates == sorted(dates, reverse=True)


@pytest.mark.slow
def test_a_list_needs_no_jax(place):
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom tlx.cli import main\n"
        f"assert 'a/good' in CliRunner().invoke(main, ['runs', {str(place)!r}]).output\n"
        "print([name for name in ('jax', 'pandas', 'altair') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_thousand_runs_are_listed_within_seconds(tmp_path, write_run):
    first = write_run(tmp_path / "first", HALF)
    for number in range(1000):
        shutil.copytree(first, tmp_path / "many" / str(number))
    start = time.process_time()
    assert len(listed(tmp_path / "many", "--where", "seed=0")) == 1000
    assert time.process_time() - start < 10
