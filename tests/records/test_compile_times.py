"""The file with the compilation times of earlier starts informs, and never stops a run."""

import json

import pytest

from tlx.records import compile_times
from tlx.records.compile_times import CompileTimes


def test_the_next_process_reads_the_newest_time(tmp_path):
    path = tmp_path / "cache" / "times.json"
    assert CompileTimes(path).last("a") is None
    CompileTimes(path).note("a", 41.256)
    CompileTimes(path).note("b", 2.0)
    CompileTimes(path).note("a", 40.5)
    times = CompileTimes(path)
    assert (times.last("a"), times.last("b"), times.last("c")) == (40.5, 2.0, None)


def test_the_file_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_times, "MOST", 3)
    times = CompileTimes(tmp_path / "times.json")
    for number in range(5):
        times.note(str(number), float(number))
    assert len(json.loads(times.path.read_text())) == 3
    assert CompileTimes(times.path).last("4") == 4.0


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 3}', '{"a": [1, "x"]}', '{"a": [1]}', "\ud800"])
def test_an_unreadable_file_is_as_good_as_none(content, tmp_path):
    path = tmp_path / "times.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert CompileTimes(path).last("a") is None
    CompileTimes(path).note("a", 1.0)
    assert CompileTimes(path).last("a") == 1.0


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    times = CompileTimes(tmp_path / "file" / "times.json")
    times.note("a", 1.0)
    assert times.last("a") is None
