"""Further named training streams, each with its data set and its batch, for the terms that name them."""

import jax
import pytest

import tlx
from tlx import Data, Optim, Recipe, Train, config, models, tasks, terms
from tlx.data import Blur, Stream, load
from tlx.data.oddities import notes
from tlx.training.active_run import ActiveRun, total_steps
from tlx.training.loop import check_devices
from tlx.training.prepare import open_data, prepare, training_batches

MEMORY = Stream(name="memory", source="mnist5k", batch=8, shift=(Blur(sigma=0.5),))


def recipe(*streams, **fields):
    return Recipe(
        data=Data(target="digits", size=8, streams=streams),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        objective=(terms.Supervised(), terms.Supervised(on="memory", weight=0.5)),
        optim=Optim(lr=0.01),
        train=Train(steps=6, batch=16, eval_batch=256),
        **fields,
    )


def test_each_step_has_a_batch_of_the_stream():
    splits = open_data(recipe(MEMORY))
    assert list(splits.streams) == ["labelled", "memory"] and splits.train is splits.streams["labelled"]
    batch = next(training_batches(prepare(recipe(MEMORY), splits), splits))
    assert {name: arrays["image"].shape[0] for name, arrays in batch.items()} == {"labelled": 16, "memory": 8}
    assert set(batch["memory"]) == {"image", "label", "index"}


@pytest.mark.slow
def test_the_stream_trains_and_changes_the_fingerprint_of_the_data(tmp_path):
    run = tlx.run(recipe(MEMORY), tmp_path / "run", quiet=True)
    assert run.result["examples"]["memory"] == 3500 and run.metrics["test/accuracy"] > 0
    plain, with_memory = load(Data(target="digits", size=8), 0), load(recipe(MEMORY).data, 0)
    assert plain.fingerprint != with_memory.fingerprint
    assert config.fingerprint(Data(target="digits")) == config.fingerprint(Data(target="digits", streams=()))


@pytest.mark.slow
def test_a_first_stream_with_another_batch_sets_the_steps_and_the_speed(tmp_path):
    """Only a further stream is read here, so it is the first stream, and a pass over it is an epoch."""
    alone = config.replace(recipe(MEMORY), objective=(terms.Supervised(on="memory"),))
    splits = open_data(alone)
    assert (splits.first, len(splits.train)) == ("memory", 3500)
    epochs = config.replace(alone, train=Train(epochs=2.0, batch=16))
    assert total_steps(epochs, len(splits.train), splits.first) == 875
    run = tlx.run(alone, tmp_path / "run", quiet=True)
    assert ActiveRun(alone, run.folder, prepare(alone, splits), splits, None).eval_every == 438
    # The seconds are rounded to thousandths.
    assert run.result["examples_per_second"] * (run.result["seconds"]["train"] - 0.0005) < 6 * 8 + 1


def test_a_small_stream_is_noted_by_its_batch():
    small = config.replace(recipe(config.replace(MEMORY, batch=4096)), seed=1)
    splits = open_data(small)
    assert (
        "memory has 3500 examples, fewer than the batch size 4096: one step uses some examples more than once"
        in notes(small.data, splits, small.train.batch)
    )


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: Stream(name="source", source="digits"), ("'source'", "labelled")),
        (lambda: Stream(name="m", source="digits", batch=0), ("'m'", "batch=0")),
        (lambda: Data(target="x", streams=(MEMORY, MEMORY)), ("'memory'", "a different name")),
        (lambda: load(Data(target="digits", streams=(Stream(name="m", source="sentiment/nyt"),)), 0), ("'m'", "text")),
        (lambda: load(Data(target="digits", streams=(Stream(name="m", source="mnist5k", split="trian"),)), 0),
         ("'trian'", "'train'")),
        (lambda: check_devices(recipe(config.replace(MEMORY, batch=jax.device_count() + 1))), ("'memory'", "devices")),
        (lambda: prepare(recipe()), ("'memory'", "labelled")),
    ],
)  # fmt: skip
def test_invalid_streams_are_refused(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts), error.value
