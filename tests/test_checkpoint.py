"""Checkpoints: all of a state, or the one before."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.checkpoint import Checkpoints, DiskFull, Saved, guarded

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


def test_only_the_newest_is_kept_and_a_half_written_one_is_not_seen(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, Saved({"x": jnp.float32(step)}, {}, {"best": False}))
    checkpoints.close()
    assert [file.name for file in tmp_path.iterdir() if file.name.isdigit()] == ["2"]
    # As a killed run leaves it: orbax gives a folder its name when all of it is there.
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    again = Checkpoints(tmp_path)
    assert again.latest() == 2
    assert again.restore({"x": jnp.float32(0)}, {}).state["x"] == 2
    again.close()


def test_the_arrays_are_taken_before_save_returns(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    state = {"x": jnp.ones(1000)}
    checkpoints.save(1, Saved(state, {}, {"best": False}))
    # The step that follows gives the buffers away.
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0, tree), donate_argnums=0)(state)
    checkpoints.wait()
    np.testing.assert_array_equal(checkpoints.restore({"x": jnp.zeros(1000)}, {}).state["x"], np.ones(1000))
    checkpoints.close()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        ValueError("RESOURCE_EXHAUSTED: write failed: No space left on device [source locations=...]"),
    ],
)
def test_a_full_disk_is_told_in_one_way_whoever_noticed(tmp_path, error):
    with pytest.raises(DiskFull) as told, guarded(tmp_path):
        raise error
    assert str(told.value) == (
        f"the disk is full: {tmp_path} could not be written. What was saved before is whole; make room and go on with "
        "--resume"
    )
    assert told.value.__cause__ is error


def test_other_errors_pass_as_they_are(tmp_path):
    for error in (
        OSError(errno.EACCES, "Permission denied"),
        MemoryError("RESOURCE_EXHAUSTED: Out of memory on device"),
    ):
        with pytest.raises(type(error)) as told, guarded(tmp_path):
            raise error
        assert told.value is error
