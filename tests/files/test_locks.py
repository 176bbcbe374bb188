"""One writer at a time in a directory."""

import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

import tlx
import tlx.records.run_directory
from tlx import Data, Recipe, Train, models, tasks
from tlx.cli import main
from tlx.files.locks import LOCK, InUse, vacant, writing

HOLD = """
import sys, time
from tlx.files.locks import writing
with writing(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""
CONFIG = '''"""A tiny run."""
from tlx import Data, Recipe, Train, models, tasks

def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=3, batch=8, eval_batch=64),
    )
'''


@pytest.fixture
def lock_in_another_process():
    """Return `elsewhere(folder)`: another process that locks the folder."""
    started = []

    def hold(folder):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_until_the_first_one_dies(lock_in_another_process, tmp_path):
    holder = lock_in_another_process(tmp_path / "run")
    with pytest.raises(InUse) as error, writing(tmp_path / "run"):
        pass
    assert str(error.value).startswith(f"another run or command is writing to {tmp_path / 'run'}")
    assert f"(process {holder.pid} on " in str(error.value)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with writing(tmp_path / "run"):
        pass


def test_the_same_thread_may_lock_again_and_another_thread_may_not(tmp_path):
    results = []

    def other():
        try:
            with writing(tmp_path):
                results.append("taken")
        except InUse:
            results.append("refused")

    with writing(tmp_path):
        with writing(tmp_path / "." / ""):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert results == ["refused", "taken"]


def test_an_unused_directory_is_removed_again(tmp_path):
    with writing(tmp_path / "a" / "b"):
        assert vacant(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    with writing(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"file", LOCK}
    (tmp_path / "empty").mkdir()
    with writing(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()
    with writing(tmp_path / "given", keep=False):
        (tmp_path / "given" / "model").touch()
    assert [path.name for path in (tmp_path / "given").iterdir()] == ["model"]


def test_a_finished_run_is_read_in_a_read_only_directory(tmp_path, monkeypatch):
    """The tests may run as root, which can write to every directory."""
    recipe = Recipe(
        data=Data(target="digits", shots=4), task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)), train=Train(steps=1, batch=8, eval_batch=64),
    )  # fmt: skip
    outcome = tlx.run(recipe, tmp_path / "run", quiet=True)
    (tmp_path / "run" / LOCK).unlink()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("filelock.FileLock.acquire", None)
    assert tlx.run(recipe, tmp_path / "run", resume=True, quiet=True).result == outcome.result
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    result = CliRunner().invoke(main, ["run", config, "--out", str(out), "--quiet"])
    assert result.exit_code == 0, result.output
    return str(out)


@pytest.mark.parametrize(
    "words",
    [
        ("run", "CONFIG", "--out", "OUT"),
        ("run", "CONFIG", "--out", "OUT", "--resume"),
        ("run", "CONFIG", "--out", "OUT", "--overwrite"),
        ("lr-find", "CONFIG", "--out", "OUT"),
        ("soup", "RUN", "RUN", "--out", "OUT"),
        ("wise", "RUN", "--out", "OUT"),
    ],
    ids=" ".join,
)
def test_no_writing_command_waits_for_a_lock(words, config, finished, lock_in_another_process, tmp_path):
    lock_in_another_process(tmp_path / "out")
    named = {"CONFIG": config, "RUN": finished, "OUT": str(tmp_path / "out")}
    refused(CliRunner().invoke(main, [named.get(word, word) for word in words]), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


@pytest.mark.parametrize("words", [("changes",), ("report",), ("run", "CONFIG", "--resume", "--out")], ids=" ".join)
def test_commands_that_write_into_a_finished_run_lock_it(words, config, finished, lock_in_another_process):
    holder = lock_in_another_process(finished)
    refused(CliRunner().invoke(main, [*(config if word == "CONFIG" else word for word in words), finished]), finished)
    holder.kill()
    holder.wait()
    assert CliRunner().invoke(main, ["report", finished]).exit_code == 0


def refused(outcome, folder):
    assert outcome.exit_code == 2, outcome.output
    assert outcome.output.count("\n") == 1
    assert outcome.output.startswith(f"tlx: another run or command is writing to {folder}"), outcome.output


@pytest.mark.slow
def test_of_two_runs_that_start_at_once_one_is_refused(config, tmp_path):
    """Their recipes differ, and the remaining files belong to one of them."""
    command = [sys.executable, "-m", "tlx.cli", "run", config, "--out", str(tmp_path / "run"), "--quiet", "--set"]
    pair = [subprocess.Popen([*command, f"seed={n}"], stderr=subprocess.PIPE, text=True) for n in (1, 2)]
    output = [process.communicate(timeout=240)[1] for process in pair]
    codes = [process.returncode for process in pair]
    assert sorted(codes) == [0, 2], output
    loser = codes.index(2)
    assert output[loser].count("\n") == 1
    assert output[loser].startswith("tlx: ") and str(tmp_path / "run") in output[loser]
    assert tlx.records.run_directory.read(tmp_path / "run")["seed"] == 2 - loser
    assert tlx.records.run_directory.read(tmp_path / "run", "recipe.json")["recipe"]["seed"] == 2 - loser
