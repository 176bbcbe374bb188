"""The modules that the config of an adapter names, as peft decides; tensors of other modules are refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tlx
from tlx import models, tasks, tuning
from tlx.trees import flatten, nest
from tlx.weights import Manifest, Pretrained

TINY = {"width": 6, "depth": 3, "heads": 2, "mlp": 5}
MODELS = {
    "bert": models.build(models.Bert(vocabulary=9, positions=12, **TINY), 3),
    "vit": models.build(models.Vit(size=4, patch=2, channels=1, **TINY), 3),
}
BASE = "base_model.model."
# The older names of the modules of a ViT, which its files still have.
OLDER = [
    ("vit.layers.", "vit.encoder.layer."),
    *((f"attention.{name[0]}_proj", f"attention.attention.{name}") for name in ("query", "key", "value")),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
]


def base(name):
    rng = np.random.default_rng(0)
    leaves = {path: rng.normal(size=value.shape).astype("f4") for path, value in flatten(MODELS[name].params).items()}
    variables = models.initialise(MODELS[name], jax.random.key(0))._replace(params=nest(leaves))
    return Pretrained(MODELS[name], variables, None, Manifest("random", {}, ()), tasks.Classification(classes=3))


def write(name, how, folder, change=lambda text: text, **fields):
    """A random adapter; `change` applies to all names in both files."""
    before, rng = base(name), np.random.default_rng(1)
    leaves = flatten(how.insert(before.model, before.variables.params, jax.random.key(0)))
    declared = flatten(before.model.params)
    for path, leaf in leaves.items():
        if path not in declared and not path.endswith(("scale", "dropout", "vera/a", "vera/b")):
            leaves[path] = rng.normal(size=leaf.shape).astype("f4")
    after = before._replace(variables=before.variables._replace(params=nest(leaves)))
    tlx.save_adapter(after, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({change(key): tensor for key, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    document = json.loads((folder / "adapter_config.json").read_text())
    document = json.loads(change(json.dumps(document | fields)))
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return before, after


def older(text):
    for new, old in OLDER:
        text = text.replace(new, old)
    return text


def equal(one, two):
    assert flatten(one).keys() == flatten(two).keys()
    for path, leaf in flatten(one).items():
        np.testing.assert_allclose(leaf, flatten(two)[path], rtol=1e-6, err_msg=path)


QUERY, SELF = tuning.Lora(rank=2, on=r".*/(query|value)"), "bert.encoder.layer.{}.attention.self.{}"
REFUSED = [
    (
        {"target_modules": ["query"]},
        "target_modules ['query'] does not name 'bert.encoder.layer.0.attention.self.value'",
    ),
    ({"target_modules": r".*\.query"}, "target_modules '.*\\\\.query' does not name"),
    ({"target_modules": ["query", "value"], "layers_to_transform": [0, 2]}, "layers_to_transform [0, 2]"),
    ({"target_modules": ["query", "value"], "layers_to_transform": 1}, "layers_to_transform 1"),
    (
        {"target_modules": ["query", "value"], "layers_to_transform": [0, 1, 2], "layers_pattern": "layers"},
        "layers_to_transform [0, 1, 2]",
    ),
    ({"target_modules": ["query", "value"], "exclude_modules": ["layer.1.attention.self.query"]}, "exclude_modules"),
    ({"target_modules": ["query", "value"], "exclude_modules": r".*\.1\..*"}, "exclude_modules '.*\\\\.1"),
    ({"target_modules": ["query", "value"], "modules_to_save": ["classifier", "self"]}, "'self' in full"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_a_tensor_of_a_layer_that_the_config_does_not_name_is_refused(fields, message, tmp_path):
    before, _ = write("bert", QUERY, tmp_path, **fields)
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(before, tmp_path)
    assert "extra in the checkpoint" in str(error.value) and message in str(error.value)


NAMED = [
    {"target_modules": ["query", "value"]},
    {"target_modules": "all-linear", "exclude_modules": ["key", "dense"]},
    {"target_modules": "All-Linear", "exclude_modules": r".*(key|dense)"},
    {"target_modules": r".*\.(query|value)"},
    {"target_modules": r"bert\.encoder\.layer\.[0-2]\.attention\.self\.(query|value)"},
    {"target_modules": ["query", "value"], "layers_to_transform": [0, 1, 2]},
    {"target_modules": ["query", "value"], "layers_to_transform": [0, 1, 2], "layers_pattern": "layer"},
    {"target_modules": ["query", "value"], "layers_to_transform": []},
    {"target_modules": ["query", "value", "classifier"]},
]


@pytest.mark.parametrize("fields", NAMED)
def test_the_same_layers_named_in_another_way_are_the_same_adapter(fields, tmp_path):
    before, after = write("bert", QUERY, tmp_path, **fields)
    equal(tlx.load_adapter(before, tmp_path).variables.params, after.variables.params)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["query", "value", "pooler.dense"]},
        {"target_modules": ["query", "value", "key"], "layers_to_transform": [0, 1, 2]},
    ],
)
def test_a_named_layer_that_the_file_lacks_is_missing(fields, tmp_path):
    before, _ = write("bert", QUERY, tmp_path, **fields)
    with pytest.raises(ValueError, match="missing from the checkpoint"):
        tlx.load_adapter(before, tmp_path)


@pytest.mark.parametrize("name", ["pooler", "dense", "LayerNorm", "embeddings", "layer.1.output", "classifier"])
def test_a_saved_module_that_the_file_lacks_is_missing(name, tmp_path):
    before, _ = write("bert", QUERY, tmp_path, modules_to_save=[name])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {key: tensor for key, tensor in tensors.items() if "classifier" not in key},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(
        ValueError, match=r"missing from the checkpoint .*\n .* \(as '.*'; the config trains this module in full"
    ):
        tlx.load_adapter(before, tmp_path)


def test_a_duplicate_part_is_refused(tmp_path):
    before, _ = write("bert", QUERY, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    for key in (f"{BASE}{SELF.format(0, 'query')}.lora_A.weight", f"{BASE}classifier.bias"):
        save_file(tensors | {key.removeprefix(BASE): tensors[key] + 1}, tmp_path / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=f"'{key.removeprefix(BASE)}' .*: duplicate of '{key}'"):
            tlx.load_adapter(before, tmp_path)


@pytest.mark.parametrize(
    "how",
    [
        QUERY,
        tuning.Lora(rank=2, on=r"blocks/.*/(query|output|up|down)"),
        tuning.Dora(rank=2, on=r".*/(up|down)"),
        tuning.Ia3(),
        tuning.Vera(rank=3, on=r".*/(query|up|down)"),
    ],
)
def test_the_older_names_of_a_vit_are_the_same_adapter(how, tmp_path):
    before, after = write("vit", how, tmp_path, older)
    text = (tmp_path / "adapter_config.json").read_text()
    assert "vit.encoder.layer." in text and "q_proj" not in text and "mlp.fc" not in text
    equal(tlx.load_adapter(before, tmp_path).variables.params, after.variables.params)


@pytest.mark.parametrize("change", [older, lambda text: text])
@pytest.mark.parametrize("short", [True, False])
def test_ranks_and_alphas_of_single_layers_are_read_in_either_spelling(change, short, tmp_path):
    how = tuning.Lora(rank=2, alpha=4.0, on=r".*/(query|up)")
    query, up = ("attention.q_proj", "layers.0.mlp.fc1") if short else ("vit.layers.1.attention.q_proj", "mlp.fc1")
    if short and change is older:
        up = "layer.0.intermediate.dense"
    fields = {"target_modules": ["attention.q_proj", "mlp.fc1"], "alpha_pattern": {query: 7.0, up: 9.0}}
    before, _ = write("vit", how, tmp_path, change, **fields)
    leaves = flatten(tlx.load_adapter(before, tmp_path).variables.params)
    for n in range(3):
        scales = {name: float(leaves[f"blocks/{n:02d}/{name}/lora/scale"]) for name in ("attention/query", "mlp/up")}
        assert scales["attention/query"] * 2 == (7 if short or n == 1 else 4)
        assert scales["mlp/up"] * 2 == (9 if not short or n == 0 else 4)


def test_names_in_two_spellings_are_refused(tmp_path):
    before, _ = write("vit", QUERY, tmp_path, alpha_pattern={"vit.encoder.layer.0.attention.attention.query": 9.0})
    with pytest.raises(
        ValueError, match=r"alpha_pattern names 'vit.encoder.layer.0.attention.attention.query', another"
    ):
        tlx.load_adapter(before, tmp_path)
    write("vit", QUERY, tmp_path, lambda text: text if "layers.0" in text else older(text))
    with pytest.raises(ValueError, match="spells the model's modules in two ways: 'vit"):
        tlx.load_adapter(before, tmp_path)
    # A name that fits only the other spelling names nothing.
    write("vit", tuning.Lora(rank=2, on=r".*/up"), tmp_path, target_modules=["intermediate.dense"])
    with pytest.raises(ValueError, match=r"does not name 'vit.layers.0.mlp.fc1'"):
        tlx.load_adapter(before, tmp_path)
