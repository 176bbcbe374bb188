"""The mesh, and batches on it."""

import jax
import numpy as np
import pytest

from tlx import sharding


def test_a_batch_is_on_all_devices_in_order():
    mesh = sharding.make_mesh()
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.size == len(jax.devices()) == 8
    batch = {"x": np.arange(16.0, dtype=np.float32).reshape(16, 1), "label": np.arange(16, dtype=np.int32)}
    placed = sharding.place_batch(mesh, batch)
    for name, array in batch.items():
        np.testing.assert_array_equal(placed[name], array)
        assert [len(shard.data) for shard in placed[name].addressable_shards] == [2] * 8
    # In the layout of the step, so no step moves it again.
    assert placed["x"].sharding == sharding.by_example(mesh)


def test_a_replicated_array_is_complete_on_every_device():
    mesh = sharding.make_mesh()
    placed = jax.device_put(np.ones((3, 2), np.float32), sharding.replicated(mesh))
    assert [shard.data.shape for shard in placed.addressable_shards] == [(3, 2)] * 8


def test_rows_lie_beside_parameters():
    mesh, rows = sharding.make_mesh(mesh=sharding.Mesh(data=4, tensor=2)), np.arange(16).reshape(8, 2)
    params = {"kernel": jax.device_put(np.ones((3, 2), np.float32), sharding.replicated(mesh))}
    for count, cut in ((8, [(2, 2)] * 8), (5, [(5, 2)] * 8)):
        placed = sharding.beside(params, rows[:count])
        assert [shard.data.shape for shard in placed.addressable_shards] == cut
        np.testing.assert_array_equal(sharding.on_host(placed), rows[:count])
    for alone in (np.ones(2), jax.device_put(np.ones(2), jax.devices()[3])):
        assert sharding.beside({"kernel": alone}, rows) is rows


def test_fewer_devices_may_be_named():
    mesh = sharding.make_mesh(jax.devices()[:2])
    assert mesh.devices.size == 2
    assert sharding.make_mesh(mesh=sharding.Mesh(data=4)).devices.ravel().tolist() == jax.devices()[:4]
    assert sharding.make_mesh(mesh=sharding.Mesh(data=-1)).devices.size == 8


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (9, ValueError, "mesh data=9: there ... 8 devices ... data=8 or fewer, or data=-1 for all"),
        (0, ValueError, "mesh data is 0; expected 1 or more devices, or -1 for all"),
        (-2, ValueError, "mesh data is -2; expected 1 or more"),
        (2.0, TypeError, "mesh data is 2.0; expected a whole number of devices"),
        (True, TypeError, "mesh data is True; expected a whole number of devices"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(data, kind, message):
    with pytest.raises(kind) as error:
        sharding.make_mesh(mesh=sharding.Mesh(data=data))
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_a_mesh_of_several_processes_has_all_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r"mesh data=4: 2 processes have 8 devices, .* use data=8"):
        sharding.make_mesh(mesh=sharding.Mesh(data=4))
    assert sharding.make_mesh().devices.size == 8


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (12, "train.batch is 12, which 8 devices cannot share evenly ... 8 or 16, or a mesh of data=6"),
        (4, "train.batch is 4, which 8 devices cannot share evenly ... 8, or a mesh of data=4"),
    ],
)
def test_a_batch_that_the_devices_cannot_share_is_refused(batch, message):
    with pytest.raises(ValueError) as error:
        sharding.check_batch(batch, sharding.make_mesh(), "train.batch")
    for part in message.split(" ... "):
        assert part in str(error.value)
    sharding.check_batch(16, sharding.make_mesh(), "train.batch")
    sharding.check_batch(batch, sharding.make_mesh(jax.devices()[:1]), "train.batch")
