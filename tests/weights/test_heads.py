"""A stored head and the classes of the task: kept, reordered by name, reinitialised, or refused; never silently."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import tlx
from tlx import models, tasks, tuning
from tlx.trees import flatten, nest
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, load_pretrained, merge, reorder, save_pretrained

TINY = {"width": 4, "depth": 1, "heads": 2, "mlp": 5}
CONFIGS = {
    "bert": models.Bert(vocabulary=9, positions=12, **TINY),
    # The hidden layer has as many units as classes; it must not be mistaken for the last layer.
    "roberta": models.Bert(family="roberta", vocabulary=9, positions=12, types=1, pad=1, **TINY),
    "distilbert": models.Bert(family="distilbert", vocabulary=9, positions=12, types=0, **TINY),
    "electra": models.Bert(family="electra", vocabulary=9, positions=12, embedding=4, **TINY),
    "mean": models.Bert(vocabulary=9, positions=12, pooling="mean", **TINY),
    "vit": models.Vit(size=4, patch=2, channels=1, **TINY),
    "deit": models.Vit(family="deit", size=4, patch=2, channels=1, distilled=True, **TINY),
    "dinov2": models.Vit(family="dinov2", size=4, patch=2, channels=1, layer_scale=1.0, **(TINY | {"mlp": 8})),
    "cnn": models.Cnn(size=4, widths=(2,), dense=4),
    "mlp": models.Mlp(inputs=(3,), widths=(4,), input="x"),
}
NAMES = ("north", "east", "south", "west")
TURNED = ("West", "north", " south", "east")
ORDER = [3, 0, 2, 1]


class Net(nn.Module):
    """Two dense layers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(4)(x)))


LINEN = models.Linen(module=Net(), shape=(3,), input="x")


def named(names):
    return tasks.Classification(classes=len(names), names=tuple(names))


def random_model(config, task=None, how=None, seed=0) -> Pretrained:
    """Return a model in which every number is random and depends on its path, with inserted parameters."""
    task = named(NAMES) if task is None else task
    model = models.build(config, task.outputs)
    variables = models.initialise(model, jax.random.key(0))
    params = variables.params if how is None else how.insert(model, variables.params, jax.random.key(1))
    leaves = {
        path: np.random.default_rng((seed, *path.encode())).uniform(0.5, 1.5, np.shape(leaf)).astype(np.float32)
        for path, leaf in flatten(params).items()
    }
    return Pretrained(model, Variables(nest(leaves), variables.stats), None, Manifest("random", {}, ()), task)


def logits(pretrained):
    shapes = models.example_inputs(pretrained.model.config)
    rng = np.random.default_rng(5)
    inputs = {
        name: rng.integers(2, 9, s.shape) if name == "input_ids" else rng.normal(size=s.shape).astype(np.float32)
        for name, s in shapes.items()
    }
    return np.asarray(models.forward(pretrained.model, pretrained.variables, inputs)[0]["logits"])


def actions(pretrained, action):
    return {entry.path: entry for entry in pretrained.manifest.entries if entry.action == action}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_permutation_of_the_names_permutes_the_logits(name, tmp_path):
    stored = random_model(CONFIGS[name])
    save_pretrained(stored, tmp_path)
    read = load_pretrained(tmp_path, named(TURNED))
    np.testing.assert_allclose(logits(read), logits(stored)[:, ORDER], rtol=1e-5, atol=1e-6)
    assert read.task.names == TURNED
    marked = actions(read, "permuted")
    assert len(marked) == (4 if name == "deit" else 2) and all("/dense/" not in path for path in marked)
    for entry in marked.values():
        assert "(north, east, south, west)" in entry.note and "(West, north,  south, east)" in entry.note
    assert "permuted" in str(read.manifest)
    # The written file states it too, and nothing remains to be reordered.
    reopened = load_pretrained(save_pretrained(read, tmp_path / "again"))
    assert reopened.task.names == TURNED and not actions(reopened, "permuted")
    np.testing.assert_array_equal(logits(reopened), logits(read))
    back = load_pretrained(tmp_path / "again", named(NAMES))
    jax.tree.map(np.testing.assert_array_equal, back.variables.params, stored.variables.params)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("bert", tuning.Lora(rank=2)),
        ("vit", tuning.Ia3()),
        ("bert", tuning.SideHead()),
        ("vit", tuning.SideHead()),
        ("bert", tuning.Bottleneck(width=3)),
        ("cnn", tuning.Bottleneck(width=3)),
        ("mlp", tuning.Lora(rank=2, on="head")),
        ("bert", tuning.Dora(rank=2, on="head/output")),
        ("roberta", tuning.Dora(rank=2, on="head/(dense|output)")),
        ("deit", tuning.Vera(rank=3, on="head/.*")),
        ("cnn", tuning.Ia3(on="head", inputs=None)),
    ],
    ids=lambda own: own if isinstance(own, str) else type(own).__name__,
)
def test_parameters_inserted_into_the_head_are_permuted_with_it(name, how, tmp_path):
    stored = random_model(CONFIGS[name], how=how)
    plain = logits(stored)
    read = load_pretrained(save_pretrained(stored, tmp_path / "whole"), named(TURNED))
    np.testing.assert_allclose(logits(read), plain[:, ORDER], rtol=1e-5, atol=1e-6)
    # As an adapter alone, onto a base whose classes have the other order.
    turned = random_model(CONFIGS[name], named(TURNED))
    tlx.save_adapter(stored, tmp_path / "adapter")
    adapted = tlx.load_adapter(turned, tmp_path / "adapter")
    np.testing.assert_allclose(logits(adapted), plain[:, ORDER], rtol=1e-5, atol=1e-6)
    assert actions(adapted, "permuted") and adapted.task.names == TURNED
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(random_model(CONFIGS[name], named(("a", "b", "c", "d"))), tmp_path / "adapter")
    assert "(north, east, south, west)" in str(error.value) and "(a, b, c, d)" in str(error.value)


def test_the_names_of_an_adapter_are_those_of_a_base_without_names(tmp_path):
    stored = random_model(CONFIGS["bert"], how=tuning.Lora(rank=2))
    tlx.save_adapter(stored, tmp_path)
    for names in ((), ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")):
        task = tasks.Classification(classes=4, names=names)
        assert tlx.load_adapter(random_model(CONFIGS["bert"], task), tmp_path).task.names == NAMES


def test_a_sum_of_adapters_is_in_the_order_of_the_first():
    how = tuning.Lora(rank=2, on="head")
    one = random_model(CONFIGS["mlp"], how=how)
    # The same numbers by name: the sum of both halves is the adapter.
    two = reorder(one, TURNED)
    actual = merge.sum_adapters([one, two], [0.5, 0.5])
    np.testing.assert_allclose(logits(actual), logits(one), rtol=1e-5)
    with pytest.raises(ValueError, match=r"\(a, b, c, d\).*\(north, east, south, west\)"):
        merge.sum_adapters([one, two._replace(task=named("abcd"))], [0.5, 0.5])


@pytest.mark.parametrize("names", [("up", "east", "south", "west"), ("a", "b", "c", "d")])
def test_a_head_for_other_classes_is_reinitialised_and_both_lists_are_stated(names, tmp_path):
    save_pretrained(random_model(CONFIGS["roberta"]), tmp_path)
    read = load_pretrained(tmp_path, named(names))
    reset = actions(read, "reset")
    assert reset.keys() == {"head/output/kernel", "head/output/bias"}
    for entry in reset.values():
        assert "(north, east, south, west)" in entry.note and f"({', '.join(names)})" in entry.note


def test_a_subset_of_the_classes_is_reinitialised(tmp_path):
    save_pretrained(random_model(CONFIGS["mlp"]), tmp_path)
    read = load_pretrained(tmp_path, named(("east", "west")))
    assert actions(read, "reset").keys() == {"head/kernel", "head/bias"}


@pytest.mark.parametrize("actual", [NAMES, ("0", "1", "2", "3"), ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")])
@pytest.mark.parametrize("expected", [("0", "1", "2", "3"), ("class 0", "class 1", "class 2", "class 3")])
def test_placeholders_keep_the_head_by_position_and_the_manifest_says_so(expected, actual, tmp_path):
    stored = random_model(CONFIGS["bert"], named(expected))
    read = load_pretrained(save_pretrained(stored, tmp_path), named(actual))
    np.testing.assert_array_equal(logits(read), logits(stored))
    noted = [entry for entry in read.manifest.entries if "kept by position" in entry.note]
    assert len(noted) == (0 if expected == actual else 2)


def test_a_task_without_names_gets_those_of_the_checkpoint(tmp_path):
    save_pretrained(random_model(CONFIGS["bert"]), tmp_path / "model")
    read = load_pretrained(tmp_path / "model", tasks.Classification(classes=4, smoothing=0.1))
    assert read.task == replace(named(NAMES), smoothing=0.1)
    assert load_pretrained(save_pretrained(read, tmp_path / "again")).task.names == NAMES


def change(directory, **fields):
    document = json.loads((directory / "config.json").read_text()) | fields
    document = {name: value for name, value in document.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(document))


def test_no_names_keep_the_head_by_position_and_the_manifest_says_so(tmp_path):
    stored = random_model(CONFIGS["bert"])
    save_pretrained(stored, tmp_path)
    change(tmp_path, id2label=None, label2id=None, num_labels=4)
    read = load_pretrained(tmp_path, named(TURNED))
    np.testing.assert_array_equal(logits(read), logits(stored))
    assert sum("config.json has no id2label" in entry.note for entry in read.manifest.entries) == 2


def test_heads_of_another_kind_of_task_are_reinitialised(tmp_path):
    save_pretrained(random_model(CONFIGS["bert"], tasks.Regression(outputs=4)), tmp_path / "numbers")
    save_pretrained(random_model(CONFIGS["bert"]), tmp_path / "classes")
    save_pretrained(random_model(CONFIGS["bert"]), tmp_path / "several")
    change(tmp_path / "several", problem_type="multi_label_classification")
    for name, task in (
        ("numbers", named(NAMES)),
        ("classes", tasks.Regression(outputs=4)),
        ("several", named(NAMES)),
    ):
        reset = actions(load_pretrained(tmp_path / name, task), "reset")
        assert reset.keys() == {"head/output/kernel", "head/output/bias"}, name
        assert all("the checkpoint's head" in entry.note for entry in reset.values())
    assert not actions(load_pretrained(tmp_path / "numbers", tasks.Regression(outputs=4)), "reset")
    # As loaded, it stays unchanged.
    reopened = save_pretrained(load_pretrained(tmp_path / "several"), tmp_path / "again")
    assert json.loads((reopened / "config.json").read_text())["problem_type"] == "multi_label_classification"


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"id2label": {"1": "a", "2": "b", "3": "c", "4": "d"}}, ("id2label", "1, 2, 3, 4", "0 to 3")),
        ({"id2label": ["a", "b", "c", "d"]}, ("id2label", "['a', 'b', 'c', 'd']")),
        (
            {"label2id": {"north": 1, "east": 0, "south": 2, "west": 3}},
            ("'north'", "class 0 in id2label", "class 1 in label2id"),
        ),
        (
            {"id2label": {"0": "a", "1": "a", "2": "c", "3": "d"}, "label2id": None},
            ("one name for several", "(a, a, c"),
        ),
    ],
)
def test_names_that_contradict_themselves_are_refused(fields, parts, tmp_path):
    save_pretrained(random_model(CONFIGS["bert"]), tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(ValueError) as error:
        load_pretrained(tmp_path)
    for part in (str(tmp_path / "config.json"), *parts):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["BertForTokenClassification", "BertForMultipleChoice", "BertModel"])
def test_a_head_of_another_class_is_reinitialised(name, tmp_path):
    save_pretrained(random_model(CONFIGS["bert"]), tmp_path)
    change(tmp_path, architectures=[name])
    reset = actions(load_pretrained(tmp_path, named(NAMES)), "reset")
    assert reset.keys() == {"head/output/kernel", "head/output/bias"}
    assert all(name.removeprefix("BertFor") in entry.note for entry in reset.values())
    # A config that names no class keeps the class names, by which the head is compared.
    change(tmp_path, architectures=None)
    assert actions(load_pretrained(tmp_path, named(TURNED)), "permuted").keys() == reset.keys()


def test_a_head_on_other_features_is_reinitialised(tmp_path):
    save_pretrained(random_model(CONFIGS["bert"]), tmp_path)
    for task in (named(NAMES), None):
        reset = actions(load_pretrained(tmp_path, task, pooling="mean"), "reset")
        assert "pooling='first'" in reset["head/output/kernel"].note


def test_a_name_for_several_classes_cannot_keep_a_head(tmp_path):
    save_pretrained(random_model(CONFIGS["bert"]), tmp_path)
    change(tmp_path, id2label={"0": "north", "1": "north", "2": "south", "3": "west"}, label2id=None)
    assert actions(load_pretrained(tmp_path, named(NAMES)), "reset")


def test_a_bridged_module_is_refused_with_both_lists(tmp_path):
    stored = random_model(LINEN)
    save_pretrained(stored, tmp_path)
    same = load_pretrained(tmp_path, named(NAMES), model=LINEN)
    np.testing.assert_array_equal(logits(same), logits(stored))
    for names in (TURNED, ("a", "b", "c", "d")):
        with pytest.raises(ValueError) as error:
            load_pretrained(tmp_path, named(names), model=LINEN)
        for part in ("(north, east, south, west)", f"({', '.join(names)})", "Linen", "reset="):
            assert part in str(error.value)
    read = load_pretrained(tmp_path, named(TURNED), model=LINEN, reset=("module/Dense_1/.*",))
    assert actions(read, "reset").keys() == {"module/Dense_1/kernel", "module/Dense_1/bias"}
    assert any("kept, while" in entry.note for entry in read.manifest.entries)
    # A reset of a hidden layer says nothing about the classes.
    wide = models.Linen(module=nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(4)]), shape=(3,), input="x")
    save_pretrained(random_model(wide), tmp_path / "wide")
    with pytest.raises(ValueError, match="does not know which parameters"):
        load_pretrained(tmp_path / "wide", named(TURNED), model=wide, reset=("module/layers_0/.*",))
    assert load_pretrained(tmp_path / "wide", named(TURNED), model=wide, reset=("module/layers_2/.*",))
    with pytest.raises(ValueError, match=r"is for Classification, but the task is Regression"):
        load_pretrained(tmp_path, tasks.Regression(outputs=4), model=LINEN)


@pytest.mark.parity
def test_a_reordered_classifier_predicts_by_name_in_transformers(tmp_path):
    import torch
    import transformers

    save_pretrained(random_model(CONFIGS["roberta"]), tmp_path / "one")
    save_pretrained(load_pretrained(tmp_path / "one", named(TURNED)), tmp_path / "two")
    ids, actual = torch.tensor(np.random.default_rng(0).integers(2, 9, (3, 5))), []
    for name in ("one", "two"):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            rows = model(ids).logits.numpy()
        order = sorted(range(4), key=lambda n: model.config.id2label[n].strip().lower())
        actual.append(rows[:, order])
    np.testing.assert_allclose(actual[0], actual[1], rtol=1e-5, atol=1e-6)


def test_reordering_refuses_other_classes():
    with pytest.raises(ValueError, match=r"\(north, east, south, west\); .*\(a, b\)"):
        reorder(random_model(CONFIGS["mlp"]), ("a", "b"))
    assert jnp.asarray(logits(reorder(random_model(CONFIGS["mlp"]), TURNED))).shape == (2, 4)
