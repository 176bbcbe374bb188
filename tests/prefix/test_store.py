"""A stored prefix changes nothing but the time: gradients, metrics, bits; and it is stored once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Weights, run, terms, tuning
from tlx.arm import setting
from tlx.data import Crop, Flip
from tlx.prefix import clear, find, sources
from tlx.prepare import open_data, prepare, training_batches
from tlx.records import read_metrics
from tlx.state import initial_state, memories
from tlx.step import train_step
from tlx.train import How
from tlx.trees import flatten

PLAIN, STORED = How(quiet=True, leave="learned", prefix=False), How(quiet=True, leave="learned")
EVERY = How(quiet=True, leave="all")


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)


def both(recipe, reads=10**6):
    """The parts of the recipe's step with and without its prefix, and a batch for each."""
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
    """What one step of plain SGD at rate one takes off each parameter."""
    held = state.numbers | {"optim": state.numbers["optim"] | {"lr": jnp.float32(1), "warmup": jnp.float32(0)}}
    after, told = jax.jit(lambda s, b: train_step(parts, s, {"labelled": b}))(state._replace(numbers=held), batch)
    return {path: np.asarray(leaf) for path, leaf in flatten(after.trainable).items()}, told


@pytest.mark.parametrize("own", [tuning.Probe(), tuning.Freeze(through="blocks/00"), tuning.SideHead()])
@pytest.mark.parametrize("objective", [(terms.Supervised(),), (terms.Supervised(), terms.RDrop(), terms.L2SP())])
def test_gradients_are_those_without_it(text, changed, store, own, objective):
    sgd = {"name": "sgd", "momentum": None, "clip": None, "schedule": "constant"}
    recipe = changed(text, tuning=own, objective=objective, optim=sgd)
    _, state, plain, stored = both(recipe)
    ours, told = gradients(stored[0], state, stored[1])
    theirs, expected = gradients(plain[0], state, plain[1])
    before = {path: np.asarray(leaf) for path, leaf in flatten(state.trainable).items()}
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        step, other = leaf - before[path], theirs[path] - before[path]
        assert np.abs(step - other).max() <= 1e-6 * max(np.abs(other).max(), np.abs(before[path]).max()), path
    np.testing.assert_allclose(told["loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(told["gradient_norm"], expected["gradient_norm"], rtol=2e-6)


def test_at_the_same_shapes_the_bits_are_the_same(text, changed, store):
    """The step puts a barrier at the cut, so the compiler makes the same of the two halves as of the whole."""
    recipe = changed(text, data={"group": 1, "tokens": 16, "buckets": (16,)}, tuning=tuning.Freeze(through="blocks/00"))
    ready, state, plain, (stored, rows) = both(recipe)
    from functools import partial

    from tlx.prefix.cut import carried

    inputs = {name: array for name, array in plain[1].items() if name not in ("label", "index")}
    carry = jax.jit(partial(carried, ready, stored.start, "float32"))(ready.variables, inputs)
    given = {"hidden": carry["hidden"], "mask": carry["mask"], "label": plain[1]["label"], "index": plain[1]["index"]}
    assert set(rows) == set(given)
    ours, _ = gradients(stored, state, given)
    theirs, _ = gradients(plain[0], state, plain[1])
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)
    # And what was stored is what the whole computes, wherever there is text.
    real = np.asarray(carry["mask"]) > 0
    np.testing.assert_allclose(rows["hidden"][real], np.asarray(carry["hidden"])[real], atol=2e-6)
    np.testing.assert_array_equal(rows["mask"], carry["mask"])


@pytest.mark.parametrize("own", [tuning.Probe(), tuning.Freeze(through="blocks/01"), tuning.Gradual(factor=1.0)])
def test_a_run_tells_the_same_with_it(text, changed, store, tmp_path, own):
    recipe = changed(text, tuning=own)
    ours, theirs = (run(recipe, tmp_path / name, how=how) for name, how in (("a", STORED), ("b", PLAIN)))
    assert ours.result["prefix"][0]["cut"] or isinstance(own, tuning.Gradual)
    assert theirs.result["prefix"][0]["cut"] is None
    for name, value in theirs.metrics.items():
        assert ours.metrics[name] == pytest.approx(value, abs=2e-5), name
    told, expected = (
        {(line["step"], line["name"]): line["value"] for line in read_metrics(found.folder)} for found in (ours, theirs)
    )
    assert told.keys() == expected.keys()
    for at, value in expected.items():
        assert told[at] == pytest.approx(value, rel=1e-4, abs=1e-5), at


def test_it_is_computed_once_for_all_that_ask_for_the_same(text, changed, store, tmp_path):
    def computed(name, **changes):
        return run(changed(text, **changes), tmp_path / name, how=STORED).result["prefix"][0]["computed"]

    every = computed("a")
    assert every == 64 + len(open_data(text).validation) + len(open_data(text).test)
    assert computed("b", optim={"lr": 0.02}) == 0
    # Another subset lacks only its own examples; a smaller one of the same seed lacks none.
    assert computed("c", data={"shots": 16}) == 0
    assert 0 < computed("d", seed=1) <= 64
    # Another cut, and other tokens, are other stores.
    assert computed("e", tuning=tuning.Probe()) == every
    assert computed("f", data={"tokens": 20}) == every
    assert clear() > 0
    assert not list(store.parent.rglob("leaf-*.npy"))


def test_a_run_stopped_and_gone_on_with_has_the_same_bits(text, store, tmp_path):
    whole = run(text, tmp_path / "whole", how=EVERY)
    stopped = How(quiet=True, leave="all", judge=lambda step, told: False)
    first = run(text, tmp_path / "parts", how=stopped)
    assert first.result["steps"] == 6
    (tmp_path / "parts" / "result.json").unlink()
    assert json.loads((tmp_path / "parts" / "recipe.json").read_text())["fingerprint"]
    again = run(text, tmp_path / "parts", how=EVERY, resume=True)
    ours, theirs = ((found.folder / "model" / "model.safetensors").read_bytes() for found in (again, whole))
    assert ours == theirs


def test_a_run_that_reads_less_than_it_would_compute_computes_nothing(text, changed, store, tmp_path):
    recipe = changed(text, data={"shots": None}, train={"steps": 2, "eval_every": 2})
    told = run(recipe, tmp_path / "run", how=STORED).result["prefix"][0]
    assert told["cut"] is None
    assert told["told"].startswith("no prefix is stored: the phase reads 32 examples, fewer than the ")


def test_a_full_disk_is_seen_before_anything_is_computed(text, store, tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("tlx.prefix.store.shutil.disk_usage", lambda path: usage(10**9, 10**9 - 10**5, 10**5))
    told = run(text, tmp_path / "run", how=STORED).result["prefix"][0]["told"]
    assert told.startswith("no prefix is stored: it may take ")
    assert told.endswith("and the disk has 0.0 GB left")


def test_fixed_views_are_the_same_with_it_and_differ_from_each_other(image, changed, store, tmp_path):
    recipe = changed(image, data={"augment": (Crop(padding=2), Flip()), "views": 3})
    ours, theirs = (run(recipe, tmp_path / name, how=how) for name, how in (("a", STORED), ("b", PLAIN)))
    assert ours.result["prefix"][0]["computed"] == 3 * 40 + sum(
        len(getattr(open_data(recipe), name)) for name in ("validation", "test")
    )
    for name, value in theirs.metrics.items():
        assert ours.metrics[name] == pytest.approx(value, abs=2e-5), name
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    batches = training_batches(ready, splits)
    # 40 examples, 16 a batch: the same example comes again in the next epoch, in another view.
    seen = {}
    for _ in range(15):
        batch = next(batches)["labelled"]
        for index, picture in zip(batch["index"].tolist(), batch["image"], strict=True):
            seen.setdefault(index, []).append(picture)
    first = next(iter(seen.values()))
    assert any(np.abs(first[0] - other).max() > 0 for other in first[1:3])
    np.testing.assert_array_equal(first[0], first[3])


def test_a_half_written_shard_is_not_seen(text, store, tmp_path):
    run(text, tmp_path / "a", how=STORED)
    for folder in store.iterdir():
        (folder / ".partial-killed").mkdir()
    assert run(text, tmp_path / "b", how=STORED).result["prefix"][0]["computed"] == 0


def test_what_is_deleted_stays_readable_for_a_run_that_has_it(text, changed, store):
    recipe = changed(text, tuning=tuning.Probe())
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    both(recipe)
    inputs = {
        "input_ids": jax.ShapeDtypeStruct((2, 8), "int32"),
        "attention_mask": jax.ShapeDtypeStruct((2, 8), "int32"),
    }
    cut = find(ready, 0, inputs, memories(recipe.objective, setting(ready, splits)))
    source = sources([(ready, splits)], cut, 10**6, lambda told: None)[0]
    assert source.computed == 0
    clear()
    assert not store.exists()
    assert next(training_batches(ready, splits, source.readers))["labelled"].keys() >= {"label", "index"}


def test_a_hash_is_kept_no_longer_than_its_array():
    from tlx.prefix.store import DIGESTS, numbers

    leaf = np.arange(5.0)
    place, first = id(leaf), numbers(leaf)
    assert place in DIGESTS
    assert numbers(np.arange(5.0)) == first != numbers(np.arange(1.0, 6.0))
    del leaf
    assert place not in DIGESTS


def test_a_model_of_few_positions_has_a_prefix_too(changed, text, store, tmp_path, encoder):
    """What has tokens is told by lengths that the model takes."""
    small = changed(text, weights=Weights(encoder, pooling="mean", resize=8), data={"tokens": 8, "buckets": (8,)})
    assert run(small, tmp_path / "run", how=STORED).result["prefix"][0]["cut"] == "blocks/02"
