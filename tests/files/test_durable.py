"""Files are complete or unchanged, and every storage failure is one error."""

import errno
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tlx.files.durable import (
    DiskFull,
    StorageError,
    check_digests,
    check_room,
    common_folder,
    guarded,
    sha256_once,
    stamp_of,
    sync_tree,
    write_digests,
    write_whole,
)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        ValueError("RESOURCE_EXHAUSTED: write failed: No space left on device [source locations=...]"),
    ],
)
def test_a_full_disk_is_one_error_whoever_detects_it(tmp_path, error):
    with pytest.raises(DiskFull) as recorded, guarded(tmp_path):
        raise error
    assert str(recorded.value) == (
        f"the disk is full: {tmp_path} cannot be written. Everything saved before is intact; free some space and "
        "continue with --resume"
    )
    assert recorded.value.__cause__ is error


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE])
def test_a_storage_that_refuses_a_file_of_the_run_is_one_error_too(tmp_path, number):
    file = tmp_path / "checkpoints" / "1" / "notes.json"
    with pytest.raises(StorageError) as recorded, guarded(tmp_path):
        raise OSError(number, os.strerror(number), str(file))
    assert str(recorded.value) == (
        f"{file}: {os.strerror(number)}. Everything saved before is intact; make {tmp_path} writable and continue with "
        "--resume"
    )
    assert not isinstance(recorded.value, DiskFull)


def test_the_checksums_of_a_folder_are_in_the_form_of_sha256sum(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a b").write_bytes(b"abc")
    write_digests(tmp_path)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    line, value = (tmp_path / "files.sha256").read_text().splitlines()
    assert line == f"{digest}  below/a b"
    assert value == f"# {hashlib.sha256(f'{line}'.encode() + bytes([10])).hexdigest()}"
    check_digests(tmp_path)
    stamp = stamp_of(tmp_path)
    (tmp_path / "below" / "a b").write_bytes(b"abd")
    assert stamp_of(tmp_path) != stamp
    with pytest.raises(ValueError, match="a b was changed: its checksum does not match"):
        check_digests(tmp_path)


def test_missing_space_is_detected_before_anything_is_written(tmp_path):
    check_room(tmp_path, 10_000)
    with pytest.raises(OSError) as error:
        check_room(tmp_path, 2**60)
    assert error.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert not list(tmp_path.iterdir())


def test_processes_that_share_a_folder_check_its_room_at_the_same_time(tmp_path):
    """Threads in the place of processes: the files collide in the same way."""
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: check_room(tmp_path, 10_000), range(400))) == [None] * 400
    assert not list(tmp_path.iterdir())


def test_an_error_of_a_failing_device_may_name_no_file(tmp_path):
    with pytest.raises(StorageError, match=r"Input/output error"), guarded(tmp_path):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        OSError(errno.EACCES, "Permission denied", "/elsewhere/data"),
        OSError(errno.EIO, "Input/output error", "/elsewhere/data"),
        MemoryError("RESOURCE_EXHAUSTED: Out of memory on device"),
    ],
)
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as recorded, guarded(tmp_path):
        raise error
    assert recorded.value is error


def test_the_outer_block_says_what_to_do_unless_the_inner_block_knows_better(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    study, cell, page = guarded(tmp_path, "run it again"), guarded(tmp_path / "cell"), guarded(tmp_path, "draw it")
    with pytest.raises(DiskFull, match=r"free some space and draw it$"), study, cell, page:
        raise full
    study, cell = guarded(tmp_path, "run it again"), guarded(tmp_path / "cell")
    with pytest.raises(DiskFull, match=r"free some space and run it again$"), study, cell:
        raise full


def test_a_file_is_complete_or_unchanged(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, [b"old"])

    def pieces():
        yield b"new, half of it"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, pieces())
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["file"]
    true = os.write
    # A write may write fewer bytes than requested.
    monkeypatch.setattr("tlx.files.durable.os.write", lambda descriptor, view: true(descriptor, view[:3]))
    write_whole(path, [b"a longer ", memoryview(b"content")], sync=True)
    assert path.read_bytes() == b"a longer content"
    monkeypatch.undo()
    sync_tree(tmp_path)


def test_a_hash_is_computed_again_if_the_file_changed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first, times = sha256_once(path), path.stat()
    assert sha256_once(path) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert sha256_once(path) != first


def test_the_nearest_common_folder_of_several_folders(tmp_path):
    assert common_folder([tmp_path / "a"]) == tmp_path / "a"
    assert common_folder([tmp_path / "a", tmp_path / "b" / "c"]) == tmp_path
