"""The files that a run writes during training."""

import errno
import json
import os
import threading

import pytest

from tlx.records.log import METRICS, Records, read_metrics, write_json
from tlx.records.trackers import TensorBoard, TrackedRun


def opened(folder, begin=0):
    return Records(folder, begin, [TensorBoard().start(TrackedRun(folder, {}, begin))])


def write(folder, steps, begin=0):
    records = opened(folder, begin)
    for step in steps:
        records.write(step, {"train/loss": 1 / step, "train/rate": 0.5})
    records.close()


def test_one_line_per_metric(tmp_path):
    write(tmp_path, [1, 2])
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [(line["step"], line["name"], line["value"]) for line in lines] == [
        (1, "train/loss", 1.0), (1, "train/rate", 0.5), (2, "train/loss", 0.5), (2, "train/rate", 0.5)
    ]  # fmt: skip
    assert all(line.keys() == {"step", "name", "value", "time"} for line in lines)
    assert read_metrics(tmp_path) == lines
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_an_incomplete_line_is_left_out(tmp_path, cut):
    write(tmp_path, [1, 2])
    text = (tmp_path / METRICS).read_text()
    (tmp_path / METRICS).write_text(text[:-cut])
    complete = read_metrics(tmp_path)
    assert [line["step"] for line in complete] == ([1, 1, 2, 2] if cut == 1 else [1, 1, 2])


def test_resuming_drops_lines_after_the_checkpoint(tmp_path):
    write(tmp_path, [1, 2, 3])
    with (tmp_path / METRICS).open("a") as stream:
        stream.write('{"step": 4, "na')
    write(tmp_path, [3, 4], begin=2)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert (tmp_path / METRICS).read_text().endswith("}\n")


def test_a_start_from_the_first_step_drops_everything(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [1])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 1]


def test_without_records_the_list_is_empty(tmp_path):
    assert read_metrics(tmp_path) == []


def test_a_json_file_is_complete_or_unchanged(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_full_disk_is_an_error_and_no_thread_waits(tmp_path, monkeypatch):
    threads = threading.active_count()
    records = opened(tmp_path)
    records.write(1, {"train/loss": 1.0})
    records.flush()
    true = os.write

    def full(descriptor, view):
        # The disk accepts a part of the first line, as a real disk does.
        if len(view) > 10:
            return true(descriptor, view[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tlx.files.durable.os.write", full)
    values = {f"train/{name}": 1.0 for name in range(300)}
    with pytest.raises(OSError, match="No space left"):
        records.write(2, values)
    # The rest of the events does not fit either; the files are closed all the same.
    with pytest.raises(OSError, match="No space left"):
        records.close()
    assert records.stream.closed and records.writers[0].stream.closed
    records.close()
    assert threading.active_count() == threads
    monkeypatch.undo()
    assert read_metrics(tmp_path)[0]["step"] == 1
    write(tmp_path, [2, 3], begin=1)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 2, 3, 3]


def test_tensorboard_reads_the_events_and_drops_repeated_steps(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    write(tmp_path, [1, 2, 3])
    write(tmp_path, [2, 3], begin=1)
    files = sorted((tmp_path / "tensorboard").glob("events.out.tfevents.*"), key=lambda file: len(file.name))
    assert len(files) == 2
    message = []
    for file in files:
        content, events = file.read_bytes(), []
        while content:
            size = int.from_bytes(content[:8], "little")
            assert int.from_bytes(content[8:12], "little") == masked_crc32c(content[:8])
            assert int.from_bytes(content[12 + size : 16 + size], "little") == masked_crc32c(content[12 : 12 + size])
            events.append(Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
        assert events[0].file_version == "brain.Event:2"
        message.append(
            [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
        )
        start = next(event for event in events if event.HasField("session_log"))
        assert start.session_log.status == start.session_log.START
        assert start.step == (1 if len(message) == 1 else 2)
    assert message[1] == [(step, name, value) for step in (2, 3) for name, value in
                       (("train/loss", pytest.approx(1 / step)), ("train/rate", 0.5))]  # fmt: skip
    assert len(message[0]) == 6
