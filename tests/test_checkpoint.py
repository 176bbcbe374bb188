"""Checkpoints: all of a state, or the one before."""

import errno
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.checkpoint import Checkpoints, DamagedCheckpoint, DiskFull, Saved
from tlx.durable import DamagedWarning

STATE = {
    "step": jnp.int32(3),
    "params": {"kernel": jnp.arange(6.0).reshape(2, 3), "half": jnp.ones(2, jnp.bfloat16)},
    "empty": {},
    "key": jax.random.key_data(jax.random.key(5)),
}


def same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("best", [{}, {"params": {"kernel": jnp.full((2, 3), 7.0)}, "stats": {}}])
def test_what_is_saved_comes_back_to_the_bit(tmp_path, best):
    notes = {"best": bool(best), "best_step": 2, "best_value": 0.1}
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    checkpoints.save(3, Saved(STATE, best, notes))
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.latest() == 3
    blank = jax.tree.map(jnp.zeros_like, STATE)
    saved = again.restore(blank, {"params": {"kernel": jnp.zeros((2, 3))}, "stats": {}})
    same(saved.state, STATE)
    same(saved.best, best)
    assert saved.notes == notes
    again.close()


def kept(folder, *steps, value=1.0):
    """Checkpoints of these steps, in each of which x is the step times `value`."""
    checkpoints = Checkpoints(folder)
    for step in steps:
        notes = {"best": False, "best_value": 0.5}
        checkpoints.save(step, Saved({"x": jnp.full(3, step * value), "y": jnp.int32(step)}, {}, notes))
    checkpoints.close()
    return [folder / f"{step}.checkpoint" for step in steps]


BLANK = {"x": jnp.zeros(3), "y": jnp.int32(0)}


def test_the_newest_two_are_kept_and_a_half_written_one_is_not_seen(tmp_path):
    kept(tmp_path, 1, 2, 10)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["10.checkpoint", "2.checkpoint"]
    # As a killed run leaves it: a file has its name when all of it is on the disk.
    (tmp_path / ".11.checkpoint.partial").write_bytes(b"half")
    again = Checkpoints(tmp_path)
    assert again.latest() == 10 and again.steps() == [2, 10]
    assert again.restore(BLANK, {}).state["y"] == 10
    assert again.restore(BLANK, {}, step=2).state["y"] == 2
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 1; it holds: 2, 10$"):
        again.restore(BLANK, {}, step=1)


def test_who_went_back_leaves_nothing_newer_behind(tmp_path):
    kept(tmp_path, 10, 20)
    (tmp_path / ".30.checkpoint.partial").write_bytes(b"half")
    kept(tmp_path, 12)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["10.checkpoint", "12.checkpoint"]


@pytest.mark.parametrize("part", range(8))
def test_any_changed_byte_falls_back_to_the_checkpoint_before(tmp_path, part):
    _, newest = kept(tmp_path, 1, 2)
    content = newest.read_bytes()
    # The type of a second array, a digit of a note and every other byte among them.
    for place in range(part, len(content), 8):
        newest.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        again = Checkpoints(tmp_path)
        with pytest.warns(DamagedWarning, match=r"2\.checkpoint .*; it is skipped, and an older checkpoint is used"):
            assert again.latest() == 1
        saved = again.restore(BLANK, {})
        assert saved.state["y"] == 1 and saved.notes["best_value"] == 0.5
    newest.write_bytes(content)
    assert Checkpoints(tmp_path).latest() == 2


def test_one_that_is_cut_short_longer_or_renamed_falls_back_too(tmp_path):
    first, newest = kept(tmp_path, 1, 2)
    content = newest.read_bytes()
    for changed in (b"", content[:7], content[:40], content[:-1], content + b"x", first.read_bytes(), bytes(500)):
        newest.write_bytes(changed)
        with pytest.warns(DamagedWarning, match=r"2\.checkpoint"):
            assert Checkpoints(tmp_path).steps() == [1]


def test_without_an_intact_one_nothing_starts_again_in_silence(tmp_path):
    files = kept(tmp_path, 1, 2)
    for file in files:
        file.write_bytes(file.read_bytes()[:-3])
    for ask in (Checkpoints.latest, Checkpoints.steps):
        with pytest.raises(DamagedCheckpoint) as error:
            ask(Checkpoints(tmp_path))
        assert all(str(file) in str(error.value) for file in files)
        assert str(error.value).endswith("or delete that directory to start again from step 0")


def test_checkpoints_of_an_older_version_are_refused(tmp_path):
    (tmp_path / "40" / "arrays").mkdir(parents=True)
    with pytest.raises(DamagedCheckpoint, match=r"40 was written by an older tlx"):
        Checkpoints(tmp_path).latest()


def test_a_checkpoint_of_another_program_names_the_array(tmp_path):
    kept(tmp_path, 1)
    for other, told in (
        ({"x": jnp.zeros(4), "y": jnp.int32(0)}, r"\['x'\] is float32\[3\] there and float32\[4\] here"),
        ({"y": jnp.int32(0)}, r"\['x'\] is float32\[3\] there and missing here"),
        ({**BLANK, "z": jnp.int32(0)}, r"\['z'\] is missing there and int32\[\] here"),
    ):
        with pytest.raises(ValueError, match=told):
            Checkpoints(tmp_path).restore(other, {})


def test_a_save_that_fails_is_told_at_the_next_and_leaves_those_before(tmp_path, monkeypatch):
    kept(tmp_path, 1, 2)
    checkpoints = Checkpoints(tmp_path)

    def full(path, pieces, sync):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tlx.checkpoint.write_whole", full)
        checkpoints.save(3, Saved(BLANK, {}, {"best": False}))
        with pytest.raises(DiskFull, match=r"^the disk is full: "):
            checkpoints.wait()
    checkpoints.close()
    assert Checkpoints(tmp_path).steps() == [1, 2]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        true = getattr(os, name)
        monkeypatch.setattr(f"tlx.durable.os.{name}", lambda *given, n=name, f=true: (calls.append(n), f(*given))[1])
    kept(tmp_path, 1)
    # The content, the name, the directory that has the name.
    assert calls == ["fsync", "replace", "fsync"]


def test_the_arrays_are_taken_before_save_returns(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = {"x": jnp.ones(1000)}
    checkpoints.save(1, Saved(state, {}, {"best": False}))
    # The step that follows gives the buffers away.
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0, tree), donate_argnums=0)(state)
    checkpoints.wait()
    np.testing.assert_array_equal(checkpoints.restore({"x": jnp.zeros(1000)}, {}).state["x"], np.ones(1000))
    checkpoints.close()
