"""Adapters as files: saving and loading is the identity, onto the right base only."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tlx
from tlx import models, tasks, tuning
from tlx.trees import flatten, nest
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, inserted

TINY = {"width": 6, "depth": 2, "heads": 2, "mlp": 5}
GROUPS = {"widths": (90, 120), "depths": (1, 1), "kernels": (3, 5), "strides": (1, 2), "expansions": (1, 3)}
CONFIGS = {
    "bert": models.Bert(vocabulary=9, positions=12, **TINY),
    "mean": models.Bert(vocabulary=9, positions=12, pooling="mean", **TINY),
    "vit": models.Vit(size=4, patch=2, channels=1, **TINY),
    "gated": models.Vit(family="dinov2", size=4, patch=2, layer_scale=1.0, gated=True, **(TINY | {"mlp": 16})),
    "own": models.Vit(size=4, patch=2, channels=1, layer_scale=0.1, **TINY),
    "mlp": models.Mlp(inputs=(4,), widths=(5, 4), input="x"),
    "cnn": models.Cnn(size=4, widths=(2, 2), dense=4),
    "efficientnet": models.EfficientNet(size=8, channels=1, width_multiplier=0.1, **GROUPS),
}
REMEDY = "save the adapter again with the library that wrote it"
TASK = tasks.Classification(classes=3)
# The form of each in its files.
FORMS = {
    ("bert", "Lora"): "LORA",
    ("bert", "Dora"): "LORA",
    ("bert", "Ia3"): "IA3",
    ("bert", "Vera"): "VERA",
    ("bert", "Prefix"): "PREFIX_TUNING",
    ("bert", "Prompt"): "PROMPT_TUNING",
    ("efficientnet", "projections"): "LORA",
    ("efficientnet", "depthwise"): "TLX",
    ("efficientnet", "factors"): "IA3",
    ("bert", "Adapter"): "TLX",
    ("bert", "SideHead"): "TLX",
    ("bert", "Bottleneck"): "TLX",
    ("vit", "Bottleneck"): "TLX",
    ("cnn", "Bottleneck"): "TLX",
    ("mean", "Lora"): "LORA",
    ("vit", "Lora"): "LORA",
    ("vit", "Prefix"): "TLX",
    ("vit", "Prompt"): "TLX",
    ("gated", "Lora"): "LORA",
    ("gated", "up"): "TLX",
    ("own", "Lora"): "TLX",
    ("mlp", "stem"): "TLX",
    ("cnn", "pool"): "TLX",
}
TUNINGS = {
    "Lora": tuning.Lora(rank=2, alpha=3.0, dropout=0.25),
    "Dora": tuning.Dora(rank=1, rank_stabilised=True),
    "Ia3": tuning.Ia3(),
    "Vera": tuning.Vera(rank=3),
    "Prefix": tuning.Prefix(tokens=2),
    "Prompt": tuning.Prompt(tokens=2),
    "Adapter": tuning.Adapter(width=2),
    "SideHead": tuning.SideHead(),
    "Bottleneck": tuning.Bottleneck(width=3),
    "up": tuning.Lora(rank=2, on=r".*/mlp/up"),
    "stem": tuning.Lora(rank=2, on="stem"),
    "projections": tuning.Lora(rank=2, on=r"blocks/.*/project"),
    "depthwise": tuning.Dora(rank=2, on=r"blocks/.*/middle"),
    "factors": tuning.Ia3(on=r"blocks/.*/middle", inputs=None),
    "pool": tuning.Lora(rank=2, on="pool"),
}


def base(name, seed=0, task=TASK) -> Pretrained:
    """Return a model in which every number is random, statistics included."""
    model, rng = models.build(CONFIGS[name], task and task.outputs), np.random.default_rng(seed)
    drawn = [
        jax.tree.map(lambda param: rng.normal(size=param.shape).astype(np.float32), tree, is_leaf=models_param)
        for tree in (model.params, model.stats)
    ]
    return Pretrained(model, Variables(*drawn), None, Manifest("random", {}, ()), task)


def models_param(leaf):
    return hasattr(leaf, "init")


def adapted(before, how, seed=1) -> Pretrained:
    """Return `before` with random inserted parameters and a random head; factors and shared matrices are unchanged."""
    rng = np.random.default_rng(seed)
    leaves = flatten(TUNINGS[how].insert(before.model, before.variables.params, jax.random.key(0)))
    declared = flatten(before.model.params)
    for path, leaf in leaves.items():
        shared = path.endswith(("scale", "dropout", "vera/a", "vera/b"))
        if path.startswith("head/") or (path not in declared and not shared):
            leaves[path] = np.asarray(leaf) + rng.normal(size=leaf.shape).astype(np.float32)
    return before._replace(variables=before.variables._replace(params=nest(leaves)))


def equal(one, two):
    assert flatten(one).keys() == flatten(two).keys()
    for path, leaf in flatten(one).items():
        np.testing.assert_allclose(leaf, flatten(two)[path], rtol=1e-6, err_msg=path)
        assert np.shape(leaf) == np.shape(flatten(two)[path])


@pytest.mark.parametrize(("name", "how"), FORMS)
def test_loading_what_was_saved_is_the_identity(name, how, tmp_path):
    before = base(name)
    after = adapted(before, how)
    tlx.save_adapter(after, tmp_path / "adapter")
    document = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert document["peft_type"] == FORMS[name, how]
    # Onto the base as loaded, which has no such head.
    read = tlx.load_adapter(before, tmp_path / "adapter")
    equal(read.variables.params, after.variables.params)
    equal(read.variables.stats, after.variables.stats)
    lines = {line.path for line in read.manifest.entries if line.note.startswith("adapter ")}
    assert inserted(after).keys() <= lines
    # The whole model: base and adapter.
    equal(tlx.load_pretrained(tlx.save_pretrained(after, tmp_path / "whole")).variables.params, after.variables.params)
    # Without its settings an adapter cannot be read, and the base alone would give other numbers.
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    (tmp_path / "damaged" / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config\.json"):
        tlx.load_pretrained(tmp_path / "damaged")
    # A model saved over it leaves no adapter behind.
    equal(
        tlx.load_pretrained(tlx.save_pretrained(before, tmp_path / "whole")).variables.params, before.variables.params
    )


def test_the_head_and_other_trained_parameters_are_saved_too(tmp_path):
    before = base("bert")
    after = adapted(before, "Lora")
    path = "blocks/01/mlp/norm/scale"
    leaves = flatten(after.variables.params) | {path: np.full(6, 7.0, np.float32)}
    after = after._replace(variables=after.variables._replace(params=nest(leaves)))
    tlx.save_adapter(after, tmp_path, moved=[path])
    equal(tlx.load_adapter(before, tmp_path).variables.params, after.variables.params)
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    assert document["modules_to_save"] == ["bert.encoder.layer.1.output.LayerNorm", "classifier"]
    # Without it the base would be a different one.
    tlx.save_adapter(after, tmp_path)
    with pytest.raises(ValueError, match="was trained on another base"):
        tlx.load_adapter(before, tmp_path)
    with pytest.raises(ValueError) as error:
        tlx.save_adapter(after, tmp_path, moved=["blocks/09/mlp/norm/scale"])
    assert "'blocks/09/mlp/norm/scale'" in str(error.value)


def test_parameters_that_the_checkpoint_lacked_are_saved_too(tmp_path):
    tlx.save_pretrained(base("bert"), tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "pooler" not in n}, tmp_path / "base" / "model.safetensors")
    one, two = (tlx.load_pretrained(tmp_path / "base", seed=seed) for seed in (1, 2))
    after = adapted(one, "Lora")
    with pytest.raises(ValueError, match=r"has an untrained pooler: 'pool/kernel' and 1 more drawn at random \(not in"):
        tlx.save_adapter(after, tmp_path / "adapter")
    tlx.save_adapter(after, tmp_path / "adapter", untrained=True)
    equal(tlx.load_adapter(two, tmp_path / "adapter").variables.params, after.variables.params)


def test_adapters_of_one_shape_share_one_compiled_forward_pass(tmp_path):
    before = base("vit")
    for seed, name in enumerate(("a", "b"), 1):
        tlx.save_adapter(adapted(before, "Lora", seed), tmp_path / name)
    adapters = {name: tlx.load_adapter(before, tmp_path / name) for name in ("a", "b")}
    image = np.ones((1, 4, 4, 1), np.float32)
    answer = jax.jit(lambda variables: tlx.forward(before.model, variables, {"image": image})[0]["logits"])
    one, two, second = (answer(adapters[name].variables) for name in ("a", "b", "a"))
    assert answer._cache_size() == 1
    assert not np.allclose(one, two)
    np.testing.assert_array_equal(one, second)


@pytest.fixture
def saved(tmp_path):
    tlx.save_adapter(adapted(base("bert"), "Lora"), tmp_path)
    return tmp_path


def rewrite(directory, change):
    tensors = load_file(directory / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, directory / "adapter_model.safetensors")


def edit(directory, **fields):
    document = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(document | fields))


def test_an_adapter_of_another_base_is_refused(saved):
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base("bert", seed=5), saved)
    assert str(error.value).startswith(f"{saved} was trained on another base model: (no name) with the weights ")
    # An adapter from peft has no hash: shapes and names decide.
    edit(saved, auto_mapping=None)
    tlx.load_adapter(base("bert", seed=5), saved)


def test_missing_extra_and_misshapen_tensors_are_listed_on_both_sides(saved):
    def change(tensors):
        place = "base_model.model.bert.encoder.layer.0.attention.self"
        del tensors[f"{place}.query.lora_B.weight"]
        tensors[f"{place}.value.lora_A.weight"] = np.ones((3, 6), np.float32)
        tensors[f"{place}.value.lora_embedding_A"] = np.ones((2, 6), np.float32)
        tensors["base_model.model.classifier.bias"] = np.ones(5, np.float32)

    rewrite(saved, change)
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base("bert"), saved)
    place = "base_model.model.bert.encoder.layer.0.attention.self"
    assert str(error.value) == (
        f"{saved} does not fit the model:\n"
        "  missing from the checkpoint (1):\n"
        "    blocks/00/attention/query/lora/b (2, 6)\n"
        "  misshapen (2):\n"
        "    head/output/bias expects (3,), but 'base_model.model.classifier.bias' is (5,)\n"
        f"    blocks/00/attention/value/lora/a expects (2, 6), but '{place}.value.lora_A.weight' is (3, 6)\n"
        "  extra in the checkpoint (1):\n"
        f"    '{place}.value.lora_embedding_A' (2, 6)"
    )


def test_a_targeted_layer_without_tensors_is_missing(saved):
    edit(saved, target_modules=["query", "value", "key"])
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base("bert"), saved)
    assert "missing from the checkpoint (4):\n    blocks/00/attention/key/lora/a (6, 2)" in str(error.value)


def test_an_adapter_of_another_shape_or_family_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="extra in the checkpoint"):
        tlx.load_adapter(base("vit"), saved)
    with pytest.raises(ValueError, match="is an adapter of peft"):
        tlx.load_adapter(base("mlp"), saved)
    with pytest.raises(ValueError, match=r"'base_model.model.classifier.bias' \(3,\)"):
        tlx.load_adapter(base("bert", task=None), saved)
    tlx.save_adapter(adapted(base("bert"), "SideHead"), tmp_path / "side")
    with pytest.raises(ValueError, match=r"head/output/bias .*\(4,\).* \(3,\)"):
        tlx.load_adapter(base("bert", task=tasks.Classification(classes=4)), tmp_path / "side")


@pytest.mark.parametrize(
    ("how", "change"),
    [
        ("Adapter", lambda own: own.pop("blocks/01/adapter/up/kernel")),
        ("Adapter", lambda own: own.update({"blocks/01/adapter/up/kernel": np.ones((3, 6), np.float32)})),
        ("SideHead", lambda own: own.pop("head/side/mixture")),
    ],
)
def test_an_incomplete_adapter_of_tlx_is_refused(how, change, tmp_path):
    tlx.save_adapter(adapted(base("bert"), how), tmp_path / "own")
    tensors = dict(load_file(tmp_path / "own" / "adapter_model.safetensors"))
    change(tensors)
    save_file(tensors, tmp_path / "own" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"own contains an adapter that the layers of the model cannot read \("):
        tlx.load_adapter(base("bert"), tmp_path / "own")


@pytest.mark.parametrize(
    ("name", "how", "path"),
    [
        ("bert", "Adapter", "blocks/00/nonsense/x"),
        ("bert", "Adapter", "blocks/00/adapter/down/gain"),
        ("own", "Lora", "blocks/01/attention/query/lora/gain"),
        ("cnn", "pool", "pool/lora/c"),
    ],
)
def test_a_tensor_of_tlx_that_no_layer_reads_is_refused(name, how, path, tmp_path):
    tlx.save_adapter(adapted(base(name), how), tmp_path / "own")
    tensors = dict(load_file(tmp_path / "own" / "adapter_model.safetensors")) | {path: np.ones(3, np.float32)}
    save_file(tensors, tmp_path / "own" / "adapter_model.safetensors")
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base(name), tmp_path / "own")
    message = f"{tmp_path / 'own'} does not fit the model:\n  extra in the checkpoint (1):\n    {path!r} (3,)"
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "LORRA"}, "peft_type 'LORRA'; close: 'LORA', 'VERA'"),
        (
            {"peft_type": "BONE"},
            "peft_type 'BONE'; there are 'IA3', 'LORA', 'PREFIX_TUNING', 'PROMPT_TUNING', 'TLX', 'VERA'",
        ),
        ({"bias": "all"}, f": bias is 'all'; expected 'none'; {REMEDY}"),
        *(
            (
                {"init_lora_weights": begun},
                f" sets init_lora_weights to {begun!r} ... "
                "save_pretrained(..., path_initial_model_for_weight_conversion=...)",
            )
            for begun in ("pissa", "pissa_niter_4", "OLoRA", "corda", "lora_ga", "loftq")
        ),
    ],
)
def test_an_adapter_of_an_unknown_kind_is_refused(fields, message, saved):
    edit(saved, **fields)
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base("bert"), saved)
    for part in (str(saved / "adapter_config.json"), *message.split(" ... ")):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("use_qalora", True, ""),
        ("lora_bias", True, ""),
        ("lora_alpa", 4.0, "'lora_alpha'"),
        ("layer_to_transform", [0], "'layers_to_transform'"),
        ("trainable_token_indices", [1], ""),
        ("target_parameters", ["x"], ""),
        ("a_new_field", 1, ""),
    ],
)
def test_a_field_that_may_change_the_predictions_is_refused_if_it_is_set(name, value, near, saved):
    edit(saved, **{name: value})
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(base("bert"), saved)
    assert str(error.value).startswith(f"{saved / 'adapter_config.json'} sets {name} to ")
    assert "does not know this field" in str(error.value) and near in str(error.value)
    for unset in (None, False, [], {}):
        edit(saved, **{name: unset})
        tlx.load_adapter(base("bert"), saved)


@pytest.mark.parametrize("begun", [True, False, "gaussian", "eva", "orthogonal"])
def test_the_initialisation_of_the_matrices_does_not_matter_if_the_base_is_unchanged(begun, saved):
    edit(saved, init_lora_weights=begun)
    tlx.load_adapter(base("bert"), saved)


def test_directories_without_an_adapter_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="the model has no adapter; save_pretrained"):
        tlx.save_adapter(base("bert"), tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"has no adapter_config.json; expected .* adapter_config.json and"):
        tlx.load_adapter(base("bert"), tmp_path / "none")
    with pytest.raises(ValueError, match=r"already has an adapter \('blocks/00/attention/key/ia3/output'"):
        tlx.load_adapter(adapted(base("bert"), "Ia3"), saved)
    (saved / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="is damaged"):
        tlx.load_adapter(base("bert"), saved)
    (saved / "adapter_config.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"adapter_config.json: the document is \[\]; expected an object with 'peft_type'"
    ):
        tlx.load_adapter(base("bert"), saved)


def test_lora_of_peft_in_a_convolution_with_groups_is_refused(tmp_path):
    before = base("efficientnet")
    tlx.save_adapter(adapted(before, "projections"), tmp_path)
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    document["target_modules"].append("depthwise_conv.depthwise_conv")
    (tmp_path / "adapter_config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError) as error:
        tlx.load_adapter(before, tmp_path)
    for part in ("LORA", "depthwise_conv.depthwise_conv'", "a convolution with groups", "reads IA3 only"):
        assert part in str(error.value)


def test_all_linear_names_no_convolution(tmp_path):
    before = base("efficientnet")
    tlx.save_adapter(adapted(before, "projections"), tmp_path)
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(document | {"target_modules": "all-linear"}))
    with pytest.raises(ValueError, match=r"project_conv\.lora_A.*names dense layers only"):
        tlx.load_adapter(before, tmp_path)


def test_a_reset_removes_inserted_parameters_too(tmp_path):
    tlx.save_pretrained(adapted(base("bert"), "Prefix"), tmp_path / "prefix")
    assert not inserted(tlx.load_pretrained(tmp_path / "prefix", reset=(r".*/prefix/.*",)))
    tlx.save_pretrained(adapted(base("bert"), "SideHead"), tmp_path / "side")
    # A side head belongs to the head, so another task does not load it.
    assert inserted(tlx.load_pretrained(tmp_path / "side"))
    assert not inserted(tlx.load_pretrained(tmp_path / "side", tasks.Classification(classes=5)))
