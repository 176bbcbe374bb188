"""The mesh, and batches on it."""

import jax
import numpy as np
import pytest

from tlx import sharding


def test_a_batch_lies_on_all_devices_in_order():
    mesh = sharding.make_mesh()
    assert mesh.axis_names == ("data",)
    assert mesh.devices.size == len(jax.devices()) == 8
    batch = {"x": np.arange(16.0, dtype=np.float32).reshape(16, 1), "label": np.arange(16, dtype=np.int32)}
    placed = sharding.place_batch(mesh, batch)
    for name, array in batch.items():
        np.testing.assert_array_equal(placed[name], array)
        assert [len(shard.data) for shard in placed[name].addressable_shards] == [2] * 8
    # Laid out as the step wants it, so that no step moves it again.
    assert placed["x"].sharding == sharding.by_example(mesh)


def test_a_replicated_array_is_whole_on_every_device():
    mesh = sharding.make_mesh()
    placed = jax.device_put(np.ones((3, 2), np.float32), sharding.replicated(mesh))
    assert [shard.data.shape for shard in placed.addressable_shards] == [(3, 2)] * 8


def test_fewer_devices_may_be_named():
    mesh = sharding.make_mesh(jax.devices()[:2])
    assert mesh.devices.size == 2


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (12, "train.batch is 12, which 8 devices cannot share evenly; take 8 or 16"),
        (4, "train.batch is 4, which 8 devices cannot share evenly; take 8"),
    ],
)
def test_a_batch_that_the_devices_cannot_share_is_refused(batch, message):
    with pytest.raises(ValueError) as error:
        sharding.check_batch(batch, sharding.make_mesh(), "train.batch")
    assert str(error.value) == message
    sharding.check_batch(16, sharding.make_mesh(), "train.batch")
    sharding.check_batch(batch, sharding.make_mesh(jax.devices()[:1]), "train.batch")
