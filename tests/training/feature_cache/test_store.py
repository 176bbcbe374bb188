"""The feature cache changes only the time: gradients, metrics and bits are equal, and features are stored once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Weights, run, terms, tuning
from tlx.data import Crop, Flip, Leaf, RandomResizedCrop, Table, TrivialAugment
from tlx.data.shifts import Blur
from tlx.records.log import read_metrics
from tlx.training.active_run import setting
from tlx.training.feature_cache import clear, find, sources
from tlx.training.feature_cache.cut import Cut
from tlx.training.feature_cache.store import digest, room
from tlx.training.loop import How
from tlx.training.prepare import open_data, prepare, training_batches
from tlx.training.state import initial_state, memories
from tlx.training.step import train_step
from tlx.trees import flatten

PLAIN, STORED = How(quiet=True, leave="learned", feature_cache=False), How(quiet=True, leave="learned")
EVERY = How(quiet=True, leave="all")
RATE = 2.0**24


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)


def with_and_without_cache(recipe, reads=10**6):
    """Return the parts of the step with and without the feature cache, and a batch for each."""
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    memory = memories(recipe.objective, setting(ready, splits))
    plain = next(training_batches(ready, splits))["labelled"]
    inputs = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in plain.items() if n not in ("label", "index")}
    cut = find(ready, 0, inputs, memory)
    source = sources([(ready, splits)], cut, reads, lambda told: None)[0]
    stored = next(training_batches(ready, splits, source.readers))["labelled"]
    parts = ready.parts(0)
    state = initial_state(parts, ready.variables, 10, jax.random.key(1), memory)
    return ready, state, (parts, plain), (parts._replace(start=source.start), stored)


def gradients(parts, state, batch):
    """Return the gradient of each parameter, in the precision of the parameter.

    It is the change by one step of plain SGD, at a learning rate so large that rounding of the parameter does not
    matter.
    """
    stored = state.numbers | {"optim": state.numbers["optim"] | {"lr": jnp.float32(RATE), "warmup": jnp.float32(0)}}
    after, metrics = jax.jit(lambda s, b: train_step(parts, s, {"labelled": b}))(state._replace(numbers=stored), batch)
    before, actual = flatten(state.trainable), flatten(after.trainable)
    return {path: (np.asarray(before[path]) - np.asarray(leaf)) / RATE for path, leaf in actual.items()}, metrics


# The inserted parameters are in the last block only.
HIGH = tuning.Lora(rank=2, on=r"blocks/02/attention/(query|value)")
RICH = (terms.Supervised(), terms.RDrop(), terms.L2SP())


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [
        tuning.Probe(),
        tuning.Freeze(through="blocks/00"),
        pytest.param(tuning.SideHead(), marks=pytest.mark.slow),
        pytest.param(HIGH, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("objective", [(terms.Supervised(),), pytest.param(RICH, marks=pytest.mark.slow)])
def test_gradients_are_equal_with_and_without_the_cache(text, changed, store, value, objective):
    sgd = {"name": "sgd", "momentum": None, "clip": None, "schedule": "constant"}
    recipe = changed(text, tuning=value, objective=objective, optim=sgd)
    _, state, plain, stored = with_and_without_cache(recipe)
    actual, recorded = gradients(stored[0], state, stored[1])
    reference, expected = gradients(plain[0], state, plain[1])
    assert actual.keys() == reference.keys()
    for path, leaf in actual.items():
        assert np.abs(leaf - reference[path]).max() <= 1e-6 * np.abs(reference[path]).max(), path
    np.testing.assert_allclose(recorded["loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(recorded["gradient_norm"], expected["gradient_norm"], rtol=1e-6)


@pytest.mark.slow
def test_at_equal_shapes_the_bits_are_equal(text, changed, store):
    """The step has a barrier at the cut, so the compiler treats the two halves like the whole if the shapes are equal.

    The cache is filled in batches of another size, so its rows are equal up to rounding.
    """
    recipe = changed(text, data={"group": 1, "tokens": 16, "buckets": (16,)}, tuning=tuning.Freeze(through="blocks/00"))
    ready, state, plain, (stored, rows) = with_and_without_cache(recipe)
    from functools import partial

    from tlx.training.feature_cache.cut import carried

    inputs = {name: array for name, array in plain[1].items() if name not in ("label", "index")}
    carry = jax.jit(partial(carried, ready, stored.start, "float32"))(ready.variables, inputs)
    arguments = {
        "hidden": carry["hidden"],
        "mask": carry["mask"],
        "label": plain[1]["label"],
        "index": plain[1]["index"],
    }
    assert set(rows) == set(arguments)
    actual, _ = gradients(stored, state, arguments)
    expected, _ = gradients(plain[0], state, plain[1])
    for path, leaf in actual.items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    # The cached features equal those of the whole step at all text positions.
    real = np.asarray(carry["mask"]) > 0
    np.testing.assert_allclose(rows["hidden"][real], np.asarray(carry["hidden"])[real], atol=2e-6)
    np.testing.assert_array_equal(rows["mask"], carry["mask"])


OWN = [
    tuning.Probe(),
    pytest.param(HIGH, marks=pytest.mark.slow),
    pytest.param(tuning.Freeze(through="blocks/01"), marks=pytest.mark.slow),
    pytest.param(tuning.Gradual(factor=1.0), marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("item", OWN)
def test_a_run_has_equal_metrics_with_and_without_the_cache(text, changed, store, tmp_path, item):
    recipe = changed(text, tuning=item)
    actual, reference = (run(recipe, tmp_path / name, how=how) for name, how in (("a", STORED), ("b", PLAIN)))
    assert actual.result["prefix"][0]["cut"] or isinstance(item, tuning.Gradual)
    assert reference.result["prefix"][0]["cut"] is None
    for name, value in reference.metrics.items():
        assert actual.metrics[name] == pytest.approx(value, abs=2e-5), name
    message, expected = (
        {(line["step"], line["name"]): line["value"] for line in read_metrics(result.folder)}
        for result in (actual, reference)
    )
    assert message.keys() == expected.keys()
    for at, value in expected.items():
        assert message[at] == pytest.approx(value, rel=1e-4, abs=1e-5), at


@pytest.mark.slow
@pytest.mark.parametrize("more", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one store", "others"])
def test_features_are_computed_once_for_all_runs_that_share_them(text, changed, store, tmp_path, more):
    def computed(name, **changes):
        return run(changed(text, **changes), tmp_path / name, how=STORED).result["prefix"][0]["computed"]

    every = computed("a")
    assert every == 64 + len(open_data(text).validation) + len(open_data(text).test)
    if more:
        # Another subset needs only its new examples; another cut or other tokens need another store.
        assert 0 < computed("d", seed=1) <= 64
        assert computed("e", tuning=tuning.Probe()) == every
        assert computed("f", data={"tokens": 20}) == every
    else:
        # A smaller subset of the same seed needs nothing new.
        assert computed("b", optim={"lr": 0.02}) == 0
        assert computed("c", data={"shots": 16}) == 0
    assert clear() > 0
    assert not list(store.parent.rglob("leaf-*.npy"))


@pytest.mark.slow
def test_a_resumed_run_has_the_same_bits(text, store, tmp_path):
    full = run(text, tmp_path / "whole", how=EVERY)
    stopped = How(quiet=True, leave="all", judge=lambda step, told: False)
    first = run(text, tmp_path / "parts", how=stopped)
    assert first.result["steps"] == 6
    (tmp_path / "parts" / "result.json").unlink()
    assert json.loads((tmp_path / "parts" / "recipe.json").read_text())["fingerprint"]
    resumed = run(text, tmp_path / "parts", how=EVERY, resume=True)
    actual, expected = ((result.folder / "model" / "model.safetensors").read_bytes() for result in (resumed, full))
    assert actual == expected


@pytest.mark.slow
def test_a_run_that_reads_fewer_rows_than_it_would_cache_caches_nothing(text, changed, store, tmp_path):
    recipe = changed(text, data={"shots": None}, train={"steps": 2, "eval_every": 2})
    recorded = run(recipe, tmp_path / "run", how=STORED).result["prefix"][0]
    assert recorded["cut"] is None
    assert recorded["told"].startswith("no features are cached: the phase reads 32 examples, fewer than the ")


@pytest.mark.slow
def test_a_full_disk_is_detected_before_features_are_computed(text, store, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(
        "tlx.training.feature_cache.store.shutil.disk_usage", lambda path: usage(10**9, 10**9 - 10**5, 10**5)
    )
    recorded = run(text, tmp_path / "run", how=STORED).result["prefix"][0]["told"]
    assert recorded.startswith("no features are cached: the cache may need ")
    assert recorded.endswith("and the disk has 0.0 GB left")


@pytest.mark.slow
@pytest.mark.parametrize("augment", [(Crop(padding=2), Flip()), (RandomResizedCrop(), TrivialAugment(), Flip())])
def test_fixed_views_are_equal_with_the_cache_and_differ_from_each_other(image, changed, store, tmp_path, augment):
    recipe = changed(image, data={"augment": augment, "views": 3})
    actual, expected = (run(recipe, tmp_path / name, how=how) for name, how in (("a", STORED), ("b", PLAIN)))
    assert actual.result["prefix"][0]["computed"] == 3 * 40 + sum(
        len(getattr(open_data(recipe), name)) for name in ("validation", "test")
    )
    for name, value in expected.metrics.items():
        assert actual.metrics[name] == pytest.approx(value, abs=2e-5), name
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    batches = training_batches(ready, splits)
    # There are 40 examples in batches of 16: an example returns in the next epoch, in another view.
    calls = {}
    for _ in range(15):
        batch = next(batches)["labelled"]
        for index, picture in zip(batch["index"].tolist(), batch["image"], strict=True):
            calls.setdefault(index, []).append(picture)
    first = next(iter(calls.values()))
    assert any(np.abs(first[0] - other).max() > 0 for other in first[1:3])
    np.testing.assert_array_equal(first[0], first[3])


def test_rows_are_shared_only_if_the_inputs_are_equal(image, changed, store):
    """Label noise does not change the inputs. A perturbed source shares only with equally perturbed data."""

    def keys(seed=0, **fields):
        data = {"source": "mnist5k", "labels": 0, "size": 8, "shots": None} | fields
        recipe = changed(image, data=data, objective=(terms.Supervised(on="source"), terms.Mcc()), seed=seed)
        splits = open_data(recipe)
        # The weights follow from the seed, which is the same for all, so only the data differ.
        ready = prepare(recipe, splits)._replace(variables=variables)
        return {name: digest(ready, Cut("blocks/00", ""), name, value) for name, value in splits.by_name.items()}

    variables = prepare(changed(image, data={"size": 8})).variables
    clean = keys()
    assert clean == keys(eps_y=0.7) == keys(seed=1) == keys(eps_y=0.3, seed=1) == keys(shift=(Blur(sigma=1.0),))
    perturbed = [
        keys(eps_x=0.3), keys(eps_x=0.7), keys(eps_x=0.7, seed=1), keys(eps_x=0.7, shift=(Blur(sigma=1.0),)),
        keys(eps_x=0.7, shift=(Blur(sigma=2.0),)),
    ]  # fmt: skip
    assert perturbed[0] == keys(eps_x=0.3, eps_y=0.5) == keys(eps_x=0.3, seed=1, subset_seed=0)
    assert len({item["source"] for item in (clean, *perturbed)}) == 6
    assert all(item | {"source": ""} == clean | {"source": ""} for item in perturbed)
    shifted = keys(target_shift=(Blur(sigma=1.0),))
    assert shifted["source"] == clean["source"]
    assert not {shifted[name] for name in shifted if name != "source"} & set(clean.values())


def test_nan_features_name_the_example(image, changed, store):
    recipe = changed(image, data={"shots": 2})
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    spoilt = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), ready.variables.params["stem"])
    ready = ready._replace(variables=ready.variables._replace(params=ready.variables.params | {"stem": spoilt}))
    cut = find(ready, 0, {"image": jax.ShapeDtypeStruct((2, 8, 8, 1), "float32")})
    first = splits.train.rows[0]
    with pytest.raises(ValueError, match=rf"below 'blocks/00' contain NaN for digits train\[{first}\]"):
        sources([(ready, splits)], cut, 10**6, lambda told: None)


@pytest.mark.slow
def test_a_partly_written_shard_is_ignored(text, store, tmp_path):
    run(text, tmp_path / "a", how=STORED)
    for folder in store.iterdir():
        (folder / ".partial-killed").mkdir()
    assert run(text, tmp_path / "b", how=STORED).result["prefix"][0]["computed"] == 0


@pytest.mark.slow
def test_deleted_features_stay_readable_for_a_run_that_has_them_open(text, changed, store):
    recipe = changed(text, tuning=tuning.Probe())
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    with_and_without_cache(recipe)
    inputs = {
        "input_ids": jax.ShapeDtypeStruct((2, 8), "int32"),
        "attention_mask": jax.ShapeDtypeStruct((2, 8), "int32"),
    }
    cut = find(ready, 0, inputs, memories(recipe.objective, setting(ready, splits)))
    source = sources([(ready, splits)], cut, 10**6, lambda told: None)[0]
    assert source.computed == 0
    clear()
    assert not any(store.iterdir())
    assert next(training_batches(ready, splits, source.readers))["labelled"].keys() >= {"label", "index"}


def test_a_hash_lives_no_longer_than_its_array():
    from tlx.training.feature_cache.store import DIGESTS, numbers

    leaf = np.arange(5.0)
    place, first = id(leaf), numbers(leaf)
    assert place in DIGESTS
    assert numbers(np.arange(5.0)) == first != numbers(np.arange(1.0, 6.0))
    del leaf
    assert place not in DIGESTS


@pytest.mark.slow
def test_a_model_with_few_positions_has_a_cache_too(changed, text, store, tmp_path, encoder):
    """Token inputs are recognised by lengths that the model accepts."""
    small = changed(text, weights=Weights(encoder, pooling="mean", resize=8), data={"tokens": 8, "buckets": (8,)})
    assert run(small, tmp_path / "run", how=STORED).result["prefix"][0]["cut"] == "blocks/02"


def damaged_shards(folder):
    """Yield after each damage: a changed byte in each kind of file, a truncated file, a missing file. Undo each."""
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for changed in (content[:-4] + bytes([content[-4] ^ 1]) + content[-3:], content[:-7], b"", None):
            if changed is None:
                path.unlink()
            else:
                path.write_bytes(changed)
            yield path
            path.write_bytes(content)


def test_a_damaged_shard_is_never_read(tmp_path):
    leaves = (Leaf(("hidden",), tokens=True), Leaf(("pooled",), tokens=False))
    rows, lengths = np.arange(6), np.array([1, 2, 3, 1, 2, 3])
    arrays = [np.arange(24.0).reshape(12, 2), np.arange(12.0).reshape(6, 2)]
    table = Table(tmp_path, leaves).grown(rows, lengths, arrays)
    assert not len(table.missing(rows)) and not table.damaged
    (shard,) = tmp_path.glob("shard-*")
    count = 0
    for path in damaged_shards(shard):
        reopened = Table(tmp_path, leaves)
        assert len(reopened.missing(rows)) == 6 and list(reopened.damaged) == [shard], path
        assert str(shard) in reopened.damaged[shard]
        count += 1
    assert count == 4 * len(list(shard.iterdir()))
    assert not Table(tmp_path, leaves).damaged
    (shard / "leaf-1.npy").write_bytes(b"")
    grown = Table(tmp_path, leaves).grown(rows, lengths, arrays)
    assert not grown.damaged and not len(grown.missing(rows)) and len(list(tmp_path.glob("shard-*"))) == 1
    np.testing.assert_array_equal(grown.gather(np.array([2]), 3)["hidden"][0], arrays[0][3:6])


def test_a_shard_that_cannot_be_written_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.data.table.sync_tree", lambda folder: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        Table(tmp_path, (Leaf(("x",), tokens=False),)).grown(np.arange(2), None, [np.ones((2, 1))])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_recomputes_a_damaged_store_and_says_so(image, store, tmp_path):
    clean = run(image, tmp_path / "a", how=STORED)
    for path in store.glob("*/shard-*/leaf-0.npy"):
        content = bytearray(path.read_bytes())
        content[-4] ^= 64
        path.write_bytes(content)
    second = run(image, tmp_path / "b", how=STORED)
    recorded = second.result["prefix"][0]
    assert recorded["computed"] == clean.result["prefix"][0]["computed"] > 0
    assert "leaf-0.npy is damaged: its checksum does not match; it is not used" in recorded["told"]
    assert second.metrics == clean.metrics
    assert run(image, tmp_path / "c", how=STORED).result["prefix"][0]["computed"] == 0


@pytest.mark.slow
def test_a_read_only_cache_does_not_stop_a_run(image, store, tmp_path, monkeypatch):
    def refused(*given):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tlx.training.feature_cache.store.Table.grown", refused)
    recorded = run(image, tmp_path / "run", how=STORED).result["prefix"][0]
    assert recorded["cut"] is None and recorded["told"].endswith("cannot be written (Read-only file system)")


def test_clearing_deletes_stores_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    far = tmp_path / "far"
    for place in (far, room() / "0123456789abcdef01234567", room() / "mine"):
        place.mkdir(parents=True)
        (place / "file").write_text("12345")
    (room() / "fedcba9876543210fedcba98").symlink_to(far)
    assert clear() == 5
    assert {path.name for path in room().iterdir()} == {"mine", "fedcba9876543210fedcba98"}
    assert (far / "file").is_file()
