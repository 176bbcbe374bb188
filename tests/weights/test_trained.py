"""An untrained head or pooler gives no predictions, and is not written silently."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import tlx
from tlx import models, tasks, tuning
from tlx.cli import main
from tlx.predict import predict
from tlx.trees import flatten, nest
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, load_pretrained, merge, save_pretrained, untrained

TINY = {"width": 4, "depth": 1, "heads": 2, "mlp": 5}
CONFIGS = {
    "bert": models.Bert(vocabulary=9, positions=12, **TINY),
    "roberta": models.Bert(family="roberta", vocabulary=9, positions=12, types=1, pad=1, **TINY),
    "distilbert": models.Bert(family="distilbert", vocabulary=9, positions=12, types=0, **TINY),
    "mean": models.Bert(vocabulary=9, positions=12, pooling="mean", **TINY),
    "vit": models.Vit(size=4, patch=2, channels=1, **TINY),
    "deit": models.Vit(family="deit", size=4, patch=2, channels=1, distilled=True, **TINY),
    "cnn": models.Cnn(size=4, widths=(2,), dense=4),
}
NAMES = ("bad", "so so", "good")
TASK = tasks.Classification(classes=3, names=NAMES)


def random_model(name, task=TASK, how=None) -> Pretrained:
    """Return a model in which every number is random and depends on its path."""
    model = models.build(CONFIGS[name], None if task is None else task.outputs)
    variables = models.initialise(model, jax.random.key(0))
    params = variables.params if how is None else how.insert(model, variables.params, jax.random.key(1))
    leaves = {
        path: np.random.default_rng([*path.encode()]).normal(size=np.shape(leaf)).astype(np.float32)
        for path, leaf in flatten(params).items()
    }
    return Pretrained(model, Variables(nest(leaves), variables.stats), None, Manifest("random", {}, ()), task)


def edit(directory, file="config.json", **fields):
    """Change fields of a JSON file; None removes a field."""
    document = json.loads((directory / file).read_text()) | fields
    document = {name: value for name, value in document.items() if value is not None}
    (directory / file).write_text(json.dumps(document))


def without(directory, *parts, file="model.safetensors"):
    tensors = load_file(directory / file)
    save_file({n: t for n, t in tensors.items() if not any(part in n for part in parts)}, directory / file)


def refused(*arguments):
    """Return the one line of a command that ends with exit code 2."""
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 2, result.output
    (line,) = result.output.splitlines()
    return line


TWO = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
WRONG = {
    "no names": ("bert", lambda d: edit(d, id2label=None, label2id=None), "head"),
    "fewer names": ("bert", lambda d: edit(d, **TWO), "head"),
    "fewer names, two layers": ("roberta", lambda d: edit(d, **TWO), "head"),
    "fewer names, picture": ("vit", lambda d: edit(d, **TWO), "head"),
    "fewer names, our form": ("cnn", lambda d: edit(d, **TWO), "head"),
    "no head": ("bert", lambda d: without(d, "classifier."), "head"),
    "no head, two layers": ("distilbert", lambda d: without(d, "pre_classifier."), "head"),
    "no bias": ("vit", lambda d: without(d, "classifier.bias"), "head"),
    "one of two heads": ("deit", lambda d: without(d, "distillation_classifier."), "head"),
    "no head on the mean": ("mean", lambda d: without(d, "head/"), "head"),
    "no head, our form": ("cnn", lambda d: without(d, "head/"), "head"),
    "no pooler": ("bert", lambda d: without(d, "pooler."), "pooler"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_with_an_untrained_part_opens_but_neither_predicts_nor_is_exported(what, tmp_path):
    name, spoil, part = WRONG[what]
    save_pretrained(random_model(name), tmp_path / "model")
    assert not untrained(load_pretrained(tmp_path / "model"))
    spoil(tmp_path / "model")
    for line in (
        refused("predict", tmp_path / "model", "a text"),
        refused("export", tmp_path / "model", tmp_path / "out"),
    ):
        assert line.startswith(f"tlx: {tmp_path / 'model'} has an untrained {part}: '"), line
        assert "drawn at random" in line and "config.json" in line and "tlx run CONFIG" in line
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=f"untrained {part}"):
        predict(tmp_path / "model", ["a text"])
    read = load_pretrained(tmp_path / "model")
    assert untrained(read)
    with pytest.raises(ValueError, match=f"untrained {part}"):
        save_pretrained(read, tmp_path / "out")
    # It is available on request, and after training.
    save_pretrained(read, tmp_path / "asked", untrained=True)
    leaves = flatten(read.variables.params)
    leaves |= {path: np.asarray(leaves[path]) + 0.5 for path in untrained(read)}
    trained = read._replace(variables=read.variables._replace(params=nest(leaves)))
    assert not untrained(load_pretrained(save_pretrained(trained, tmp_path / "trained")))


def test_a_head_for_another_task_is_untrained_until_it_is_trained(tmp_path):
    save_pretrained(random_model("bert"), tmp_path / "model")
    for task, reset in ((tasks.Classification(classes=5), ()), (replace(TASK, names=("a", "b", "c")), ())):
        read = load_pretrained(tmp_path / "model", task, reset=reset)
        assert untrained(read) == ["head/output/kernel", "head/output/bias"]
    read = load_pretrained(tmp_path / "model", TASK, reset=(r"head/.*",))
    assert untrained(read)
    # Other parameters that were reset on request are not a head.
    assert not untrained(load_pretrained(tmp_path / "model", TASK, reset=(r"blocks/.*",)))


def test_a_backbone_with_a_random_pooler_is_not_exported(tmp_path):
    save_pretrained(random_model("bert", None), tmp_path / "model")
    save_pretrained(load_pretrained(tmp_path / "model"), tmp_path / "whole")
    without(tmp_path / "model", "pooler.")
    assert "untrained pooler" in refused("export", tmp_path / "model", tmp_path / "out")
    # A mean over the tokens reads no pooler.
    read = load_pretrained(tmp_path / "model", pooling="mean")
    assert not untrained(read)


def test_a_head_for_several_labels_predicts_a_probability_for_each(tmp_path):
    save_pretrained(random_model("bert"), tmp_path)
    edit(tmp_path, problem_type="multi_label_classification")
    read = load_pretrained(tmp_path)
    assert read.task == tasks.MultiLabel(names=read.task.names)
    outputs = {"logits": np.array([[3.0] * read.model.outputs])}
    assert all(probability > 0.9 for probability in read.task.answers(outputs, {})[0].values())


def test_parts_that_an_export_leaves_out_are_named(tmp_path):
    save_pretrained(random_model("bert"), tmp_path / "model")
    edit(tmp_path / "model", architectures=["BertForMultipleChoice"])
    result = CliRunner().invoke(main, ["export", str(tmp_path / "model"), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "2 tensors" in result.output and "classifier.bias, classifier.weight" in result.output


def adapted(name="bert", how=None):
    return random_model(name, how=how or tuning.Lora(rank=2))


def test_an_adapter_of_an_untrained_head_is_not_saved(tmp_path):
    save_pretrained(random_model("bert"), tmp_path / "model")
    without(tmp_path / "model", "classifier.")
    read = load_pretrained(tmp_path / "model")
    params = tuning.Lora(rank=2).insert(read.model, read.variables.params, jax.random.key(0))
    fresh = read._replace(variables=read.variables._replace(params=params))
    with pytest.raises(ValueError, match="untrained head"):
        tlx.save_adapter(fresh, tmp_path / "adapter")
    with pytest.raises(ValueError, match="untrained head"):
        merge.sum_adapters([fresh, fresh], [0.5, 0.5])
    # An adapter with a head has trained it.
    tlx.save_adapter(adapted(), tmp_path / "adapter")
    actual = tlx.load_adapter(read, tmp_path / "adapter")
    assert not untrained(actual)
    save_pretrained(actual, tmp_path / "out")


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "vit"])
@pytest.mark.parametrize("part", ["classifier", ".bias"])
def test_an_adapter_without_the_head_that_its_config_names_is_refused(name, part, tmp_path):
    tlx.save_adapter(adapted(name), tmp_path)
    base = random_model(name)
    tlx.load_adapter(base, tmp_path)
    without(tmp_path, part, file="adapter_model.safetensors")
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base, tmp_path)
    for output in (str(tmp_path), "missing from the checkpoint", "head/output/bias", "in full"):
        assert output in str(error.value)


def test_a_task_type_alone_names_a_head(tmp_path):
    tlx.save_adapter(adapted(), tmp_path)
    without(tmp_path, "classifier", file="adapter_model.safetensors")
    edit(tmp_path, "adapter_config.json", modules_to_save=None)
    with pytest.raises(ValueError, match="head/output/kernel"):
        tlx.load_adapter(random_model("bert"), tmp_path)
    # An adapter of features only promises no head.
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    mapping = {k: v for k, v in document["auto_mapping"].items() if not k.startswith("tlx_")}
    edit(tmp_path, "adapter_config.json", task_type="FEATURE_EXTRACTION", auto_mapping=mapping)
    tlx.load_adapter(random_model("bert"), tmp_path)


def test_an_adapter_without_another_module_that_its_config_names_is_refused(tmp_path):
    how = adapted()
    tlx.save_adapter(how, tmp_path, moved=["pool/kernel"])
    tlx.load_adapter(random_model("bert"), tmp_path)
    without(tmp_path, "pooler", file="adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"pool/kernel \(4, 4\) \(as 'bert.pooler.dense.weight'; .*in full"):
        tlx.load_adapter(random_model("bert"), tmp_path)


def test_an_adapter_in_the_form_of_tlx_has_its_head(tmp_path):
    tlx.save_adapter(adapted("cnn", tuning.Lora(rank=2, on="pool")), tmp_path)
    without(tmp_path, "head/bias", file="adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"missing from the checkpoint \(1\):\n    head/bias \(3,\)"):
        tlx.load_adapter(random_model("cnn"), tmp_path)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_of_peft_without_its_head_is_refused(tmp_path):
    import peft
    import transformers

    save_pretrained(random_model("bert"), tmp_path / "base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    actual = load_pretrained(tmp_path / "base")
    tlx.load_adapter(actual, tmp_path / "adapter")
    without(tmp_path / "adapter", "classifier", file="adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"head/output/kernel \(4, 3\) \(as 'classifier.weight'"):
        tlx.load_adapter(actual, tmp_path / "adapter")
