"""What a run writes as it goes."""

import json

import pytest

from tlx.records import METRICS, Progress, Records, read_metrics, write_json


def write(folder, steps, begin=0):
    records = Records(folder, begin)
    for step in steps:
        records.write(step, {"train/loss": 1 / step, "train/rate": 0.5})
    records.close()


def test_one_line_a_metric(tmp_path):
    write(tmp_path, [1, 2])
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [(line["step"], line["name"], line["value"]) for line in lines] == [
        (1, "train/loss", 1.0), (1, "train/rate", 0.5), (2, "train/loss", 0.5), (2, "train/rate", 0.5)
    ]  # fmt: skip
    assert all(line.keys() == {"step", "name", "value", "time"} for line in lines)
    assert read_metrics(tmp_path) == lines
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_that_was_left_half_written_is_left_out(tmp_path, cut):
    write(tmp_path, [1, 2])
    text = (tmp_path / METRICS).read_text()
    (tmp_path / METRICS).write_text(text[:-cut])
    whole = read_metrics(tmp_path)
    assert [line["step"] for line in whole] == ([1, 1, 2, 2] if cut == 1 else [1, 1, 2])


def test_going_on_drops_what_came_after_the_checkpoint(tmp_path):
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


def test_nothing_recorded_is_an_empty_list(tmp_path):
    assert read_metrics(tmp_path) == []


def test_a_json_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_without_a_terminal_there_is_no_bar_and_quiet_says_nothing(capsys):
    for quiet in (False, True):
        with Progress(3, 0, 8, quiet) as progress:
            progress.step(1, 0.5, 0.1)
            progress.say("step 3/3")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "step 3/3\n"
