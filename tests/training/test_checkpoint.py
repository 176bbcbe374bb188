"""Checkpoints: the complete state, or the previous checkpoint."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.files.durable import DamagedWarning
from tlx.training import checkpoint, stored_arrays
from tlx.training.checkpoint import Checkpoints, DamagedCheckpoint, DiskFull, Saved

STATE = {
    "step": jnp.int32(3),
    "params": {"kernel": jnp.arange(6.0).reshape(2, 3), "half": jnp.ones(2, jnp.bfloat16)},
    "empty": {},
    "key": jax.random.key_data(jax.random.key(5)),
}


def same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("best", [{}, {"params": {"kernel": jnp.full((2, 3), 7.0)}, "stats": {}}])
def test_a_saved_state_is_restored_bit_for_bit(tmp_path, best):
    notes = {"best": bool(best), "best_step": 2, "best_value": 0.1}
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    checkpoints.save(3, Saved(STATE, best, notes))
    checkpoints.close()
    reopened = Checkpoints(tmp_path)
    assert reopened.latest() == 3
    blank = jax.tree.map(jnp.zeros_like, STATE)
    saved = reopened.restore(blank, {"params": {"kernel": jnp.zeros((2, 3))}, "stats": {}})
    same(saved.state, STATE)
    same(saved.best, best)
    assert saved.notes == notes
    reopened.close()


def write_checkpoints(folder, *steps, value=1.0):
    """Write checkpoints of these steps; in each, x is the step times `value`."""
    checkpoints = Checkpoints(folder)
    for step in steps:
        notes = {"best": False, "best_value": 0.5}
        checkpoints.save(step, Saved({"x": jnp.full(3, step * value), "y": jnp.int32(step)}, {}, notes))
    checkpoints.close()
    return [folder / str(step) for step in steps]


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


BLANK = {"x": jnp.zeros(3), "y": jnp.int32(0)}


def test_nan_and_empty_arrays_are_restored_too(tmp_path):
    odd = np.array([0x7FC00001, 0x80000000, 0xFFC12345, 0], np.uint32).view(np.float32)
    state = {"odd": odd, "none": np.zeros((0, 3), np.float32), "minus": -np.zeros(4, np.float32), "pair": (odd[:1], {})}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, Saved(state, {}, {"best": False}))
    actual = checkpoints.restore(jax.tree.map(np.zeros_like, state), {}).state
    for tlx_side, expected in zip(jax.tree.leaves(actual), jax.tree.leaves(state), strict=True):
        assert (tlx_side.shape, tlx_side.dtype, tlx_side.tobytes()) == (
            expected.shape,
            expected.dtype,
            expected.tobytes(),
        )


def test_the_newest_two_are_kept_and_a_partly_written_one_is_ignored(tmp_path):
    write_checkpoints(tmp_path, 1, 2, 10)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["10", "2"]
    # A killed run leaves this: a directory has its final name only if it is complete on the disk.
    shutil.copytree(tmp_path / "10", tmp_path / ".11.partial")
    reopened = Checkpoints(tmp_path)
    assert reopened.latest() == 10 and reopened.steps() == [2, 10]
    assert reopened.restore(BLANK, {}).state["y"] == 10
    assert reopened.restore(BLANK, {}, step=2).state["y"] == 2
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 1; .*: 2, 10$"):
        reopened.restore(BLANK, {}, step=1)


def test_a_run_that_went_back_removes_newer_checkpoints(tmp_path):
    write_checkpoints(tmp_path, 10, 20)
    for name in (".30.partial", ".20.partial", ".12.partial", ".12.replaced.partial"):
        shutil.copytree(tmp_path / "20", tmp_path / name)
    (tmp_path / ".20.room.partial").write_bytes(b"half")
    write_checkpoints(tmp_path, 12)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["10", "12"]


def test_a_checkpoint_deleted_while_another_process_reads_is_not_called_damaged(tmp_path, monkeypatch, recwarn):
    _, newest = write_checkpoints(tmp_path, 1, 2)
    for missing in ("stamp_of", "check_digests"):
        true = getattr(checkpoint, missing)

        def delete_then_read(path, true=true):
            if path == newest:
                path.rename(tmp_path / ".2.partial")
            return true(path)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, missing, delete_then_read)
            assert Checkpoints(tmp_path).latest() == 1
        (tmp_path / ".2.partial").rename(newest)
    assert Checkpoints(tmp_path).latest() == 2 and not recwarn.list


def test_a_step_that_is_saved_again_replaces_the_first_one(tmp_path):
    write_checkpoints(tmp_path, 1, 2)
    write_checkpoints(tmp_path, 2, value=5.0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1", "2"]
    np.testing.assert_array_equal(Checkpoints(tmp_path).restore(BLANK, {}).state["x"], np.full(3, 10.0))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two checkpoints, and the content of every file of the newer one."""
    folder = tmp_path_factory.mktemp("two")
    _, newest = write_checkpoints(folder, 1, 2)
    return folder, {file: file.read_bytes() for file in files_of(newest)}


@pytest.mark.parametrize("part", range(4))
def test_any_changed_byte_falls_back_to_the_previous_checkpoint(two, part):
    folder, files = two
    assert {file.name for file in files} >= {"files.sha256", "notes.json", "_METADATA", "manifest.ocdbt"}
    for file, content in files.items():
        # Of every file: the first bytes, the last bytes, and bytes at equal distances between them.
        ends = (*range(6), *range(len(content) - 70, len(content)))
        places = {*ends, *range(0, len(content), 61)} & set(range(len(content)))
        for place in sorted(places)[part::4]:
            file.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
            reopened = Checkpoints(folder)
            with pytest.warns(DamagedWarning, match=r"2 is damaged: .*; .* an older checkpoint"):
                assert reopened.latest() == 1, (file, place)
        file.write_bytes(content)
    saved = Checkpoints(folder).restore(BLANK, {}, step=1)
    assert saved.state["y"] == 1 and saved.notes["best_value"] == 0.5
    assert Checkpoints(folder).latest() == 2


def test_a_truncated_longer_missing_swapped_or_added_file_falls_back_too(tmp_path):
    _, newest = write_checkpoints(tmp_path, 1, 2)

    def falls_back():
        with pytest.warns(DamagedWarning, match=r"/2 is damaged: .*(/2/|files\.sha256)"):
            assert Checkpoints(tmp_path).steps() == [1]
        return True

    before = None
    for file in files_of(newest):
        content = file.read_bytes()
        for changed in (b"", content[:7], content[:-1], content + b"x", content * 2, before, bytes(500), None):
            file.unlink() if changed is None else file.write_bytes(changed or b"")
            assert falls_back()
        file.unlink(missing_ok=True)
        file.symlink_to(tmp_path / "1" / file.name)
        assert falls_back()
        file.unlink()
        file.mkdir()
        assert falls_back()
        file.rmdir()
        file.write_bytes(content)
        before = content
    for more in (newest / "arrays" / "d" / "more", newest / ".hidden", newest / "line\nbreak"):
        more.write_bytes(b"")
        assert falls_back()
        more.unlink()
    (newest / "arrays" / "more").mkdir()
    assert falls_back()
    (newest / "arrays" / "more").rmdir()
    assert Checkpoints(tmp_path).steps() == [1, 2]


def test_a_checkpoint_with_another_name_or_type_falls_back(tmp_path):
    first, newest = write_checkpoints(tmp_path, 1, 2)
    shutil.rmtree(newest)
    shutil.copytree(first, newest)
    with pytest.warns(DamagedWarning, match="2 contains step 1,"):
        assert Checkpoints(tmp_path).latest() == 1
    shutil.rmtree(newest)
    for make in (newest.mkdir, newest.rmdir, newest.touch):
        make()
        if newest.exists():
            with pytest.warns(DamagedWarning, match="2 is damaged"):
                assert Checkpoints(tmp_path).latest() == 1


def test_files_that_change_after_the_check_are_detected(tmp_path):
    write_checkpoints(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() == 1
    file = max(files_of(tmp_path / "1"), key=lambda path: path.stat().st_size)
    content, status = bytearray(file.read_bytes()), file.stat()
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(DamagedCheckpoint):
        checkpoints.restore(BLANK, {}, step=1)


def test_arrays_that_orbax_reads_differently_are_detected(tmp_path, monkeypatch):
    write_checkpoints(tmp_path, 1)
    load = checkpoint.load

    def other(folder, target):
        arrays = load(folder, target)
        arrays["state"]["x"] = arrays["state"]["x"] + 1
        return arrays

    monkeypatch.setattr(checkpoint, "load", other)
    with pytest.raises(DamagedCheckpoint, match=r"1 is damaged: the checksum of \['state'\]\['x'\] does not match"):
        Checkpoints(tmp_path).restore(BLANK, {})


def test_a_run_does_not_restart_silently_without_an_intact_checkpoint(tmp_path):
    folders = write_checkpoints(tmp_path, 1, 2)
    for folder in folders:
        (folder / "notes.json").write_bytes((folder / "notes.json").read_bytes()[:-3])
    for ask in (Checkpoints.latest, Checkpoints.steps):
        with pytest.raises(DamagedCheckpoint) as error:
            ask(Checkpoints(tmp_path))
        assert all(str(folder) in str(error.value) for folder in folders)
        assert str(error.value).endswith("or delete them all to start again from step 0")


def write_old_checkpoint(folder, step, value):
    """Write a checkpoint as the manager of orbax wrote it for tlx 0.1, without checksums."""
    import orbax.checkpoint as ocp

    arrays = {"state": {"x": jnp.full(3, value), "y": jnp.int32(step)}, "best": {}}
    notes = {"notes": {"best": False, "best_value": 0.25}}
    args = ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), rest=ocp.args.JsonSave(notes))
    with ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=1)) as manager:
        manager.save(step, args=args)


def test_a_checkpoint_of_an_older_version_is_read_and_replaced_by_the_new_format(tmp_path):
    write_old_checkpoint(tmp_path, 40, 3.0)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() == 40
    saved = checkpoints.restore(BLANK, {})
    np.testing.assert_array_equal(saved.state["x"], np.full(3, 3.0))
    assert saved.state["y"] == 40 and saved.notes == {"best": False, "best_value": 0.25}
    with pytest.raises(
        ValueError, match=r"\['x'\] is float32\[3\] in .* and float32\[4\] in this run|cannot be read by orbax"
    ):
        checkpoints.restore({**BLANK, "x": jnp.zeros(4)}, {})
    write_checkpoints(tmp_path, 50)
    assert Checkpoints(tmp_path).steps() == [40, 50]
    write_checkpoints(tmp_path, 60)
    assert Checkpoints(tmp_path).steps() == [50, 60]
    # Without its records a new checkpoint is damaged; it does not count as an old one.
    for name in ("files.sha256", "notes.json"):
        (tmp_path / "60" / name).unlink()
        with pytest.warns(DamagedWarning, match="60 is damaged"):
            assert Checkpoints(tmp_path).latest() == 50


def test_a_damaged_checkpoint_of_an_older_version_is_one_error(tmp_path):
    write_old_checkpoint(tmp_path, 40, 3.0)
    for file in files_of(tmp_path / "40" / "arrays"):
        file.write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=r"arrays cannot be read by orbax: "):
        Checkpoints(tmp_path).restore(BLANK, {})


def test_a_checkpoint_of_another_program_names_the_array(tmp_path):
    write_checkpoints(tmp_path, 1)
    for other, recorded in (
        ({"x": jnp.zeros(4), "y": jnp.int32(0)}, r"\['x'\] is float32\[3\] in .* and float32\[4\] in this run"),
        ({"y": jnp.int32(0)}, r"\['x'\] is float32\[3\] in .* and missing in this run"),
        ({**BLANK, "z": jnp.int32(0)}, r"\['z'\] is missing in .* and int32\[\] in this run"),
    ):
        with pytest.raises(ValueError, match=recorded):
            Checkpoints(tmp_path).restore(other, {})


@pytest.mark.parametrize("part", ["check_room", "write_whole", "write_digests", "sync_tree"])
def test_a_failed_save_is_reported_at_the_next_save_and_keeps_earlier_ones(tmp_path, monkeypatch, part):
    write_checkpoints(tmp_path, 1, 2)
    checkpoints = Checkpoints(tmp_path)

    def full_disk(*given, **how):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(stored_arrays if part == "check_room" else checkpoint, part, full_disk)
        checkpoints.save(3, Saved(BLANK, {}, {"best": False}))
        with pytest.raises(DiskFull, match=r"^the disk is full: "):
            checkpoints.wait()
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    assert Checkpoints(tmp_path).steps() == [1, 2]


FULL = """
import resource, signal, sys, time
from pathlib import Path
import numpy as np
from tlx.training import checkpoint, stored_arrays
from tlx.files.durable import DiskFull
stored_arrays.check_room = lambda folder, size: None
kept = checkpoint.Checkpoints(Path(sys.argv[1]))
state = {f"x{n}": np.random.default_rng(n).normal(size=3000) for n in range(40)}
small = {"x": np.zeros(3)}
kept.save(1, checkpoint.Saved(small, {}, {}))
kept.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
kept.save(2, checkpoint.Saved(state, {}, {}))
try:
    kept.wait()
except DiskFull as error:
    print("full", flush=True)
time.sleep(0.3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 3_000, 200_000])
def test_a_disk_that_becomes_full_while_orbax_writes_prints_nothing(tmp_path, limit):
    """Another program takes the free space between the check and the write."""
    process = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(limit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (process.stdout, process.stderr) == ("full\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert Checkpoints(tmp_path).latest() == 1


def test_log_messages_and_thread_errors_of_others_are_still_printed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(sys, "unraisablehook", calls.append)
    write_checkpoints(tmp_path, 1)
    handler = logging.Handler()
    handler.emit = lambda record: calls.append(record.getMessage())
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        try:
            logger.error("of another library")
            logger.error("another's error", exc_info=ValueError("of another library"))
            logger.error("orbax's error", exc_info=ValueError("Error writing [tensorstore_spec='{}']"))
        finally:
            logger.removeHandler(handler)
    assert calls == ["of another library", "another's error"] * 2

    class Event:
        exc_value = RuntimeError("something else")

    sys.unraisablehook(Event)
    Event.exc_value = RuntimeError("Event loop is closed")
    sys.unraisablehook(Event)
    assert calls[4:] == [Event]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_final_name(tmp_path, monkeypatch):
    calls = []

    def fsync(descriptor, true=os.fsync):
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        true(descriptor)

    def replace(start, end, true=os.replace):
        true(start, end)
        if Path(end).parent == tmp_path:
            calls.append(None)

    monkeypatch.setattr("tlx.files.durable.os.fsync", fsync)
    monkeypatch.setattr("tlx.files.durable.os.replace", replace)
    write_checkpoints(tmp_path, 1)
    named = calls.index(None)
    # First every file and directory, then the rename, then the parent directory.
    within = {path.relative_to(tmp_path / "1").as_posix() for path in [tmp_path / "1", *(tmp_path / "1").rglob("*")]}
    assert {Path(path).relative_to(tmp_path / ".1.partial").as_posix() for path in calls[:named]} == within
    assert calls[named + 1 :] == [str(tmp_path)]


def test_the_arrays_are_copied_before_save_returns(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = {"x": jnp.ones(1000)}
    checkpoints.save(1, Saved(state, {}, {"best": False}))
    # The next step donates the buffers.
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0, tree), donate_argnums=0)(state)
    checkpoints.wait()
    np.testing.assert_array_equal(checkpoints.restore({"x": jnp.zeros(1000)}, {}).state["x"], np.ones(1000))
    checkpoints.close()
