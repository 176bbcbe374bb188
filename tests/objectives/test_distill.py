"""The logits, features and attention of a teacher."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tlx import Data, Recipe, models, save_pretrained, tasks, terms, tuning
from tlx.training.prepare import prepare
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained

WIDE = {"widths": (7, 6)}
VIT = models.Vit(size=4, patch=2, channels=1, width=4, depth=2, heads=2, mlp=4, deviation=0.5)


def test_the_logits_loss_is_that_of_hinton(mlp, tmp_path):
    config = replace(mlp.config, **WIDE)
    teacher = mlp.save(tmp_path / "t", config, 3, seed=8)
    batch, variables = mlp.labelled(), mlp.drawn(mlp.model, 0)
    p, q = (mlp.softmax(mlp.by_hand(v, batch["x"])[2] / 3.0) for v in (teacher, variables))
    actual = mlp.look(terms.Distill(teacher=str(tmp_path / "t"), temperature=3.0, weight=0.5))
    assert actual.value == pytest.approx(0.5 * 9 * (p * np.log(p / q)).sum(-1).mean(), rel=1e-4)


def test_hidden_states_are_compared_and_projected_if_widths_differ(mlp, tmp_path):
    teacher = mlp.save(tmp_path / "t", replace(mlp.config, widths=(5, 6)), 3, seed=8)
    batch, variables = mlp.labelled(), mlp.drawn(mlp.model, 0)
    reference, actual = mlp.by_hand(teacher, batch["x"]), mlp.by_hand(variables, batch["x"])
    pairs = (("stem", "stem"), ("blocks/00", "blocks/00"))
    result = mlp.look(terms.Distill(teacher=str(tmp_path / "t"), what="hidden", pairs=pairs))
    projection = np.float64(result.params["distill"]["blocks"]["00"]["blocks"]["00"]["kernel"])
    assert projection.shape == (4, 6)
    expected = (((actual[0] - reference[0]) ** 2).mean() + ((actual[1] @ projection - reference[1]) ** 2).mean()) / 2
    assert result.value == pytest.approx(expected, rel=1e-5)
    assert [path for path in result.gradient if path.startswith("distill")] == ["distill/blocks/00/blocks/00/kernel"]
    assert np.abs(result.gradient["distill/blocks/00/blocks/00/kernel"]).max() > 0
    # Without names, the last stage of each model.
    last = mlp.look(terms.Distill(teacher=str(tmp_path / "t"), what="hidden"))
    assert last.value == pytest.approx(((actual[1] @ projection_of(last) - reference[1]) ** 2).mean(), rel=1e-5)


def projection_of(actual):
    return np.float64(actual.params["distill"]["blocks"]["00"]["blocks"]["00"]["kernel"])


@pytest.mark.slow
def test_attention_is_compared_head_by_head(mlp, tmp_path):
    teacher = mlp.save(tmp_path / "t", VIT, 3, seed=8)
    batch = mlp.labelled(VIT)
    model = models.build(VIT, 3)
    actual = mlp.drawn(model, 0)

    def maps(variables, stage, before):
        """By hand: the norm, the two products and the softmax of one block."""
        x = np.float64(models.forward(model, variables, batch)[0][before])
        value = variables.params["blocks"][stage.split("/")[1]]["attention"]
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + VIT.epsilon)
        normed = normed * np.float64(value["norm"]["scale"]) + value["norm"]["bias"]
        query, key = (
            (normed @ np.float64(value[part]["kernel"]) + value[part]["bias"]).reshape(*x.shape[:2], 2, 2)
            for part in ("query", "key")
        )
        return mlp.softmax(np.einsum("bthd,bshd->bhts", query, key) / np.sqrt(2))

    p, q = maps(teacher, "blocks/00", "stem"), maps(actual, "blocks/01", "blocks/00")
    term = terms.Distill(teacher=str(tmp_path / "t"), what="attention", pairs=(("blocks/01", "blocks/00"),))
    assert mlp.look(term, config=VIT, batch=batch).value == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-3)


def test_an_incompatible_teacher_is_refused(mlp, tmp_path, monkeypatch):
    mlp.save(tmp_path / "five", mlp.config, 5, seed=8)
    mlp.save(tmp_path / "bare", mlp.config, None, seed=8)
    # Its head is random each time it is loaded.
    mlp.save(tmp_path / "reset", mlp.config, 3, seed=8)
    tensors = load_file(tmp_path / "reset" / "model.safetensors")
    stored = {name: tensor for name, tensor in tensors.items() if not name.startswith("head/")}
    save_file(stored, tmp_path / "reset" / "model.safetensors")
    mlp.save(tmp_path / "vit", VIT, 3, seed=8)
    mlp.save(tmp_path / "heads", replace(VIT, heads=1), 3, seed=8)
    mlp.save(tmp_path / "small", replace(VIT, patch=1), 3, seed=8)

    # Before the first step is traced.
    monkeypatch.setattr(terms.Distill, "loss", None)

    def refusal(name, config=mlp.config, **settings):
        with pytest.raises(ValueError) as error:
            mlp.look(terms.Distill(teacher=str(tmp_path / name), **settings), config=config)
        return str(error.value).replace(str(tmp_path) + "/", "")

    assert refusal("five") == "Distill: the teacher 'five' has 5 classes, but the model has 3"
    assert refusal("bare").startswith("Distill: 'bare' has no head; ")
    assert refusal("reset") == (
        "Distill: 'reset' has no trained head: 'head/bias' is not in the checkpoint, or does not fit its "
        "config.json; give a checkpoint of a classifier"
    )
    assert refusal("vit") == "Distill: 'vit' reads 'image', but the model reads 'x'"
    assert refusal("five", what="attention") == (
        "Distill(what='attention') needs transformer blocks with plain attention over all tokens; Mlp has none"
    )
    assert "teacher 'heads' has 1 heads, but the model has 2" in refusal("heads", VIT, what="attention")
    for what, stage in (("hidden", "norm"), ("attention", "blocks/01")):
        message = refusal("small", VIT, what=what)
        assert f"'{stage}' has (5,) positions and the teacher's '{stage}' has (17,)" in message
    assert refusal("five", what="hidden", pairs=(("blocks/01", "stem"),)) == (
        "Distill: there is no stage 'blocks/01' with hidden; close: 'blocks/00'"
    )
    for settings, message in (
        ({"what": "logit"}, "Distill: what is 'logit'; expected one of 'logits', 'hidden', 'attention'"),
        ({"temperature": 0.0}, "Distill: temperature is 0.0; expected "),
        ({"weight": -1.0}, "Distill: weight is -1.0; expected "),
        ({"pairs": (("a", "b"),)}, "Distill: pairs of stages are for what='hidden' or what='attention'"),
    ):
        assert refusal("five", **settings).startswith(message)


@pytest.mark.parametrize(
    ("names", "same"),
    [
        ((), True),
        (("A", "b", "c"), True),
        (("LABEL_0", "LABEL_1", "LABEL_2"), True),
        (("a", "b", "class 2"), True),
        (("a", "b", "LABEL_1"), False),
        (("x", "y", "z"), False),
        (("a", "b", "d"), False),
    ],
)
def test_a_teacher_with_other_classes_is_refused_before_data_are_read(names, same, mlp, tmp_path, monkeypatch):
    mlp.save(tmp_path / "t", mlp.config, 3, seed=8, names=names)
    named = tasks.Classification(classes=3, names=("a", "b", "c"))
    recipe = Recipe(data=Data(target="digits"), task=named, model=mlp.config)
    by_answers, by_features = (terms.Distill(teacher=str(tmp_path / "t"), what=what) for what in ("logits", "hidden"))
    # A teacher without class names cannot be compared, and features belong to no class.
    prepare(replace(recipe, objective=(by_features,)))
    prepare(replace(recipe, objective=(by_answers,), task=tasks.Classification(classes=3)))
    if same:
        prepare(replace(recipe, objective=(by_answers,)))
        return
    # No weights are initialised either, which would compile.
    monkeypatch.setattr("tlx.training.prepare.jax", SimpleNamespace(**{**vars(jax), "jit": None}))
    with pytest.raises(ValueError) as error:
        prepare(replace(recipe, objective=(by_answers,)))
    monkeypatch.undo()
    for part in (f"the teacher's classes are {names}, ", "('a', 'b', 'c')", f"tasks.Classification(names={names})"):
        assert part in str(error.value)
    prepare(replace(recipe, objective=(by_answers,), task=replace(named, names=names)))


TEXT = models.Bert(vocabulary=11, width=4, depth=2, heads=2, mlp=4, positions=8)


@pytest.mark.parametrize("what", ["hidden", "attention"])
def test_tokens_that_a_tuning_puts_before_a_text_have_no_counterpart_in_the_teacher(what, mlp, tmp_path):
    mlp.save(tmp_path / "t", TEXT, 3, seed=8)
    model, key = models.build(TEXT, 3), jax.random.key(0)
    params = mlp.drawn(model, 0).params
    term = terms.Distill(teacher=str(tmp_path / "t"), what=what)
    # Keys before those of the tokens do not count as tokens.
    task = tasks.Classification(classes=3)
    for how in (tuning.Prefix(tokens=5), tuning.Lora(rank=2)):
        mlp.preview(term, model, params=how.insert(model, params, key))
    with pytest.raises(ValueError, match=r"'blocks/01' has \(6,\) positions"):
        mlp.preview(term, model, params=tuning.Prompt(tokens=5).insert(model, params, key))
    # A teacher with the same tuning has as many.
    prompted = tuning.Prompt(tokens=5).insert(model, params, key)
    teacher = Pretrained(model, Variables(prompted, {}), None, Manifest("", {}, ()), task)
    save_pretrained(teacher, tmp_path / "prompted")
    mlp.preview(terms.Distill(teacher=str(tmp_path / "prompted"), what=what), model, params=prompted)
