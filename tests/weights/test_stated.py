"""Fields of a task that a checkpoint keeps: they are read back, and wrong ones are refused with the file."""

import json

import jax
import pytest

from tlx import models, tasks
from tlx.trees import flatten
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained

CONFIGS = {
    "bert": models.Bert(vocabulary=9, positions=12, width=4, depth=1, heads=2, mlp=5),
    "mlp": models.Mlp(inputs=(3,), widths=(4,), input="x"),
}
TASKS = [
    tasks.Ordinal(names=("bad", "fair", "good"), ranks=(1, 0, 2)),
    # One output; without the name of the task it would be a regression.
    tasks.Ordinal(names=("bad", "good"), ranks=(0, 1)),
    tasks.Regression(outputs=2, standardise=True, mean=(1.5, -2.0), deviation=(0.5, 3.0)),
    tasks.Regression(standardise=True, mean=(1.5,), deviation=(0.5,)),
    tasks.MultiLabel(names=("film", "taste"), threshold=0.2),
    tasks.Classification(classes=2, names=("no", "yes"), temperature=1.5),
]


def saved(config, task, folder):
    model = models.build(config, task.head())
    variables = models.initialise(model, jax.random.key(0))
    manifest = Manifest("random", {}, ())
    return save_pretrained(Pretrained(model, variables, None, manifest, task), folder, untrained=True)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{type(task).__name__}-{task.outputs}")
def test_a_checkpoint_states_the_fields_of_its_task(config, task, tmp_path):
    loaded = load_pretrained(saved(config, task, tmp_path / "model"))
    assert loaded.task == task
    # Saved again it is the same, and another task leaves nothing behind.
    document = json.loads((save_pretrained(loaded, tmp_path / "again", untrained=True) / "config.json").read_text())
    assert document == json.loads((tmp_path / "model" / "config.json").read_text())
    plain = save_pretrained(
        loaded._replace(task=tasks.Regression(outputs=task.outputs)), tmp_path / "c", untrained=True
    )
    assert "tlx_task_fields" not in json.loads((plain / "config.json").read_text())


def test_the_class_outside_is_kept_and_a_default_is_not_written(tmp_path):
    task = tasks.TokenClassification(names=("none", "name"), outside="none")
    assert load_pretrained(saved(CONFIGS["bert"], task, tmp_path / "tags")).task == task
    plain = saved(CONFIGS["mlp"], tasks.MultiLabel(names=("a", "b")), tmp_path / "plain")
    assert "tlx_task_fields" not in json.loads((plain / "config.json").read_text())


def test_a_head_for_another_order_of_classes_is_drawn_again(tmp_path):
    folder = saved(CONFIGS["bert"], TASKS[0], tmp_path / "model")
    same = load_pretrained(folder, tasks.Ordinal(names=("bad", "fair", "good"), ranks=(0, 1, 2)))
    other = load_pretrained(folder, tasks.Ordinal(names=("good", "fair", "bad"), ranks=(0, 1, 2)))
    head = {path for path in flatten(same.variables.params) if path.startswith("head/")}
    assert head and not {entry.path for entry in same.manifest.entries if entry.action == "reset"}
    reset = {entry.path: entry.note for entry in other.manifest.entries if entry.action == "reset"}
    assert reset.keys() == head and all("good, fair, bad" in note for note in reset.values())
    # A task of the user with the same name is another task.
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"tlx_task": "Ordinal"}))
    assert load_pretrained(folder).task is None


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"temprature": 2.0}, "'temprature'; close: 'temperature'"),
        ({"temperature": "hot"}, "'hot'"),
        ({"temperature": -1.0}, "-1.0"),
        ([1, 2], "tlx_task_fields"),
    ],
)
def test_fields_that_do_not_fit_are_refused_with_their_file(fields, part, tmp_path):
    folder = saved(CONFIGS["mlp"], TASKS[-1], tmp_path / "model")
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"tlx_task_fields": fields}))
    with pytest.raises(ValueError) as error:
        load_pretrained(folder)
    assert str(folder / "config.json") in str(error.value) and part in str(error.value)
