"""adapter_config.json and the files beside it: one clear line for everything that is not an adapter."""

import contextlib
import json
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tlx
from tlx import models, tasks, tuning
from tlx.trees import flatten, nest
from tlx.weights import Manifest, Pretrained

MODEL = models.build(models.Bert(vocabulary=9, positions=12, width=6, depth=2, heads=2, mlp=5), 3)
TUNINGS = {
    "LORA": tuning.Lora(rank=2, alpha=3.0),
    "IA3": tuning.Ia3(),
    "VERA": tuning.Vera(rank=3),
    "PREFIX_TUNING": tuning.Prefix(tokens=2),
    "PROMPT_TUNING": tuning.Prompt(tokens=2),
    "TLX": tuning.Adapter(width=2),
}


@pytest.fixture(scope="module")
def base():
    variables = models.initialise(MODEL, jax.random.key(0))
    return Pretrained(MODEL, variables, None, Manifest("random", {}, ()), tasks.Classification(classes=3))


@pytest.fixture(scope="module")
def written(base, tmp_path_factory):
    """An adapter of each kind: its config and its tensors."""
    results = {}
    for kind, how in TUNINGS.items():
        leaves = flatten(how.insert(MODEL, base.variables.params, jax.random.key(0)))
        adapted = base._replace(variables=base.variables._replace(params=nest(leaves)))
        folder = tlx.save_adapter(adapted, tmp_path_factory.mktemp(kind))
        results[kind] = (json.loads((folder / "adapter_config.json").read_text()), folder)
        assert results[kind][0]["peft_type"] == kind
    return results


def put(written, kind, folder, **fields):
    """Return the adapter with other fields; ... removes a field."""
    document, source = written[kind]
    changed = {name: value for name, value in (document | fields).items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(changed))
    (folder / "adapter_model.safetensors").write_bytes((source / "adapter_model.safetensors").read_bytes())
    return folder


NUMBER, NAMES = "expected a number", "expected a list, each value a string or a regular expression"
WRONG = [
    ("LORA", "r", 0, "r is 0; expected a whole number, 1 or more"),
    ("LORA", "r", -2, "r is -2; expected a whole number, 1 or more"),
    ("LORA", "r", "2", "r is '2'; expected a whole number"),
    ("LORA", "r", 2.0, "r is 2.0; expected a whole number"),
    ("LORA", "r", True, "r is true; expected a whole number"),
    ("LORA", "r", None, "r is null; expected a whole number"),
    ("LORA", "r", ..., "r is missing; expected a whole number"),
    ("LORA", "lora_alpha", "3", f"lora_alpha is '3'; {NUMBER}"),
    ("LORA", "lora_alpha", float("nan"), "the document contains NaN, which is not JSON"),
    ("LORA", "lora_alpha", float("inf"), "the document contains Infinity, which is not JSON"),
    ("LORA", "lora_alpha", True, f"lora_alpha is true; {NUMBER}"),
    ("LORA", "lora_alpha", [3], f"lora_alpha is [3]; {NUMBER}"),
    ("LORA", "lora_alpha", ..., f"lora_alpha is missing; {NUMBER}"),
    ("LORA", "lora_dropout", 1.0, "lora_dropout is 1.0; expected a number from 0 to 0.9999"),
    ("LORA", "lora_dropout", -0.1, "lora_dropout is -0.1; expected a number from 0"),
    ("LORA", "lora_dropout", "0.1", "lora_dropout is '0.1'; expected a number from 0"),
    ("LORA", "rank_pattern", [2], "rank_pattern is [2]; expected an object"),
    ("LORA", "rank_pattern", {"query": 0}, "rank_pattern.query is 0; expected a whole number, 1 or more"),
    ("LORA", "rank_pattern", {"query": "2"}, "rank_pattern.query is '2'; expected a whole number"),
    ("LORA", "alpha_pattern", {"query": None}, f"alpha_pattern.query is null; {NUMBER}"),
    ("LORA", "alpha_pattern", {"(": 1}, "is not a regular expression"),
    ("LORA", "target_modules", None, f"target_modules is null; {NAMES}"),
    ("LORA", "target_modules", 3, f"target_modules is 3; {NAMES}"),
    ("LORA", "target_modules", [3], "target_modules[0] is 3; expected a string"),
    ("LORA", "target_modules", {"query": 1}, f"target_modules is an object with 1 entries; {NAMES}"),
    ("LORA", "target_modules", ..., f"target_modules is missing; {NAMES}"),
    ("LORA", "target_modules", "(query", "is not a regular expression"),
    (
        "LORA",
        "target_modules",
        "query",
        "target_modules 'query' does not name 'bert.encoder.layer.0.attention.self.query'",
    ),
    ("LORA", "modules_to_save", "classifier", "modules_to_save is 'classifier'; expected a list"),
    ("LORA", "modules_to_save", [None], "modules_to_save[0] is null; expected a string"),
    ("LORA", "modules_to_save", ["("], "is not a regular expression"),
    ("LORA", "exclude_modules", 1, "exclude_modules is 1; expected a list"),
    ("LORA", "layers_to_transform", "0", "layers_to_transform is '0'; expected a list"),
    ("LORA", "layers_to_transform", [-1], "layers_to_transform[0] is -1; expected a whole number"),
    ("LORA", "layers_to_transform", [True], "layers_to_transform[0] is true; expected a whole number"),
    ("LORA", "layers_pattern", "layer", "sets layers_pattern to 'layer' without layers_to_transform"),
    ("LORA", "use_dora", "yes", "use_dora is 'yes'; expected true or false"),
    ("LORA", "use_rslora", 1, "use_rslora is 1; expected true or false"),
    ("LORA", "bias", "lora_only", "bias is 'lora_only'; expected 'none'"),
    ("LORA", "bias", None, "bias is null; expected 'none'"),
    ("LORA", "task_type", 1, "task_type is 1; expected a string"),
    ("LORA", "auto_mapping", [], "auto_mapping is []; expected an object"),
    ("LORA", "auto_mapping", {"tlx_base": 1}, "auto_mapping.tlx_base is 1; expected a string"),
    ("LORA", "peft_type", 1, "peft_type is 1; expected a string"),
    ("LORA", "peft_type", ["LORA"], "peft_type is ['LORA']; expected a string"),
    ("LORA", "peft_type", ..., "peft_type is missing; expected a string"),
    ("LORA", "init_lora_weights", 1, "init_lora_weights is 1; expected true or false or a string"),
    ("IA3", "target_modules", 1, f"target_modules is 1; {NAMES}"),
    ("IA3", "feedforward_modules", 1, "feedforward_modules is 1; expected a list"),
    ("IA3", "layers_to_transform", [0], "layers_to_transform to [0]"),
    ("VERA", "r", "3", "r is '3'; expected a whole number"),
    ("VERA", "r", 2, "does not fit the model"),
    ("PREFIX_TUNING", "num_virtual_tokens", "2", "num_virtual_tokens is '2'; expected a whole number, 1 or more"),
    ("PREFIX_TUNING", "num_virtual_tokens", ..., "num_virtual_tokens is missing; expected a whole number"),
    ("PREFIX_TUNING", "num_virtual_tokens", 3, "does not fit the model"),
    ("PROMPT_TUNING", "num_virtual_tokens", 0, "num_virtual_tokens is 0; expected a whole number, 1 or more"),
    ("PROMPT_TUNING", "num_transformer_submodules", 2, "num_transformer_submodules is 2; expected 1"),
    ("TLX", "auto_mapping", None, "auto_mapping is null; expected an object with 'tlx_base'"),
    ("TLX", "auto_mapping", {}, "auto_mapping.tlx_base is missing; expected a string"),
    ("TLX", "bottleneck", 2, "sets bottleneck to 2"),
]


@pytest.mark.parametrize(("kind", "name", "value", "message"), WRONG)
def test_a_field_with_another_value_is_refused_by_name(kind, name, value, message, written, base, tmp_path):
    folder = put(written, kind, tmp_path, **{name: value})
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base, folder)
    assert message in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("kind", TUNINGS)
def test_no_field_of_another_json_type_ends_in_a_traceback(kind, written, base, tmp_path):
    for name in written[kind][0]:
        for value in (None, True, -1, 0.5, "x", [], ["x"], [None], {}, {"x": []}, "(a+)+$", [[]]):
            folder = put(written, kind, tmp_path, **{name: value})
            with contextlib.suppress(ValueError):
                loaded = tlx.load_adapter(base, folder)
                assert flatten(loaded.variables.params).keys() > flatten(base.variables.params).keys()


@pytest.mark.parametrize(
    "expression", ["(a+)+$", "(.*.*)*x", "(([a-z])+.)+[A-Z]([a-z])+$", r"(\w+\.?)+!", "(.|.)*(.|.)*q", "(.*)*(.*)*x"]
)
@pytest.mark.parametrize(
    "fields",
    [
        lambda expression: {"target_modules": expression},
        lambda expression: {"exclude_modules": expression},
        lambda expression: {"rank_pattern": {expression: 2}},
        lambda expression: {"alpha_pattern": {expression: 2}},
        lambda expression: {"modules_to_save": [expression]},
    ],
)
def test_an_expression_that_is_endless_in_re_is_answered_at_once(expression, fields, written, base, tmp_path):
    folder = put(written, "LORA", tmp_path, **fields(expression))
    start = time.monotonic()
    with contextlib.suppress(ValueError):
        tlx.load_adapter(base, folder)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ("3", "the document is 3; expected an object with 'peft_type'"),
        ('{"peft_type": "LORA", "peft_type": "IA3"}', "the key 'peft_type' occurs twice"),
        ("\xff", "is not"),
    ],
)
def test_a_config_that_is_not_json_is_refused(content, message, written, base, tmp_path):
    folder = put(written, "LORA", tmp_path)
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base, folder)
    assert str(error.value).startswith(f"{folder / 'adapter_config.json'}") and message in str(error.value)


def test_an_adapter_in_a_pickle_is_refused_unopened_with_the_way_to_convert_it(written, base, tmp_path):
    folder = put(written, "LORA", tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base, folder)
    for part in (
        f"{folder} contains adapter_model.bin, a pickle",
        "tlx reads adapter_model.safetensors only",
        f"peft.PeftModel.from_pretrained(BASE_MODEL, '{folder}').save_pretrained(NEW_DIRECTORY)",
    ):
        assert part in str(error.value)
    # Beside the tensors it does not matter.
    put(written, "LORA", tmp_path)
    tlx.load_adapter(base, folder)


@pytest.mark.parametrize("kind", TUNINGS)
@pytest.mark.parametrize("value", [np.nan, np.inf, "int32"])
def test_an_adapter_takes_finite_floating_point_numbers_only(kind, value, written, base, tmp_path):
    folder = put(written, kind, tmp_path)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for name in sorted(tensors)[:3]:
        changed = tensors[name].astype(value) if isinstance(value, str) else np.full_like(tensors[name], value)
        save_file(tensors | {name: changed}, path)
        with pytest.raises(ValueError) as error:
            tlx.load_adapter(base, folder)
        assert str(error.value).startswith(f"{path}: tensor {name!r} ")
