"""A cell has one owner at a time, and none if the owner has died."""

import errno
import subprocess
import sys

import pytest

from tlx.records.log import write_json
from tlx.study.base import document, settle
from tlx.study.claims import claim, settled

HOLD = """
import sys, time
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def directory(small, tmp_path):
    settle(tmp_path / "study", document(small, "x"))
    return tmp_path / "study"


def test_a_claim_excludes_every_other_until_it_is_released(small, directory):
    (name, cell), *_ = small.by_fingerprint.items()
    first = claim(directory, name, cell, 0.0)
    assert first is not None
    assert claim(directory, name, cell, 0.0) is None
    first.lock.release()
    second = claim(directory, name, cell, 0.0)
    assert second is not None
    second.lock.release()


def test_the_claim_of_a_killed_worker_is_free(small, directory):
    (name, cell), *_ = small.by_fingerprint.items()
    path = directory / "claims" / f"{name}.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert claim(directory, name, cell, 0.0) is None
    finally:
        holder.kill()
        holder.communicate()
    actual = claim(directory, name, cell, 0.0)
    assert actual is not None
    actual.lock.release()


def test_a_file_system_without_locks_is_refused(small, directory, monkeypatch):
    """Without locks, a replacement would outlive its owner."""

    def without(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    (name, cell), *_ = small.by_fingerprint.items()
    monkeypatch.setattr("fcntl.flock", without)
    with (
        pytest.warns(UserWarning, match="flock not supported"),
        pytest.raises(OSError, match="support file locks"),
    ):
        claim(directory, name, cell, 0.0)
    monkeypatch.undo()
    assert claim(directory, name, cell, 0.0) is not None


def test_done_is_final_and_failed_is_final_until_a_later_call(small, directory):
    name = next(iter(small.by_fingerprint))
    folder = directory / "cells" / name
    folder.mkdir()
    assert not settled(folder, 0.0)
    write_json(folder / "failed.json", {"error": "ValueError: no", "traceback": "", "time": 100.0})
    assert settled(folder, 99.0)
    assert settled(folder, 100.0)
    assert not settled(folder, 101.0)
    write_json(folder / "result.json", {})
    assert settled(folder, 101.0)
