"""Adapters of `peft` with more saved modules than a head, and the layers that a config names, in both libraries.

Models, inputs and bases are those of `test_parity_peft`.
"""

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.numpy import load_file, save_file

import tlx
from tlx.weights.peft_targets import layer_number, why_not

# Test files are not a package.
spec = importlib.util.spec_from_file_location("peers", Path(__file__).with_name("test_parity_peft.py"))
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)
TOLERANCE = peers.TOLERANCE
bases, draw, our_logits, theirs = peers.bases, peers.draw, peers.our_logits, peers.theirs
peft_config, torch_logits = peers.peft_config, peers.torch_logits

pytestmark = [
    pytest.mark.parity,
    pytest.mark.usefixtures("quick"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
# Modules beside the head: norms, whole blocks, embeddings, a pooler.
KEPT = {
    "bert": ["pooler", "LayerNorm", "layer.0.intermediate", "token_type_embeddings"],
    "roberta": ["classifier", "embeddings.LayerNorm", "layer.0.intermediate.dense", "position_embeddings"],
    "distilbert": ["sa_layer_norm", "layer.0.ffn.lin1"],
    "electra": ["embeddings_project", "layer.0"],
    "vit": ["layernorm_before", "vit.layernorm", "projection"],
    "deit": ["layernorm", "patch_embeddings"],
    "dinov2": ["norm1", "encoder.layer.0.mlp.fc1"],
}
# Convolutional networks save their heads only.
PAIRS = [(name, how) for name, how in peers.PAIRS if name in KEPT]
IMAGES = [name for name in peers.IMAGES if name in KEPT]


def random_adapter(name, how, base, folder, **fields):
    """A saved peft model with a random adapter and random saved modules."""
    torch.manual_seed(2)
    config = peft_config(name, how)
    config.modules_to_save = [*(config.modules_to_save or []), *KEPT[name]]
    for field, value in fields.items():
        setattr(config, field, value)
    model = peft.get_peft_model(theirs(base, name), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(("name", "how"), PAIRS)
def test_saved_modules_survive_the_way_from_peft_to_tlx_and_back(name, how, bases, tmp_path):
    model = random_adapter(name, how, bases[name], tmp_path / "theirs")
    inputs = draw(name)
    wanted, before = torch_logits(model, inputs), tlx.load_pretrained(bases[name])
    tlx_side = tlx.load_adapter(before, tmp_path / "theirs")
    np.testing.assert_allclose(our_logits(tlx_side, inputs), wanted, rtol=0, atol=TOLERANCE)
    # Back to peft, and from there to tlx; twice, because what was read must be recorded as read.
    for source, target in (("theirs", "ours"), ("ours", "again")):
        loaded = tlx.load_adapter(before, tmp_path / source)
        tlx.save_adapter(loaded, tmp_path / target)
        assert json.loads((tmp_path / target / "adapter_config.json").read_text())["peft_type"] != "TLX"
        opened = peft.PeftModel.from_pretrained(theirs(bases[name], name), tmp_path / target).eval()
        np.testing.assert_allclose(torch_logits(opened, inputs), wanted, rtol=0, atol=TOLERANCE)
        reopened = tlx.load_adapter(before, tmp_path / target)
        np.testing.assert_allclose(our_logits(reopened, inputs), wanted, rtol=0, atol=TOLERANCE)
    # The saved modules matter.
    assert not np.allclose(our_logits(before, inputs), wanted, atol=1e-2)
    # The whole model, saved and read, is the same too.
    tlx.save_pretrained(tlx_side, tmp_path / "whole")
    full = tlx.load_pretrained(tmp_path / "whole")
    np.testing.assert_allclose(our_logits(full, inputs), wanted, rtol=0, atol=TOLERANCE)


NAMED = [
    {"exclude_modules": ["layer.0.attention.self.query"]},
    {"exclude_modules": r".*\.1\..*value"},
    {"layers_to_transform": [1]},
    {"layers_to_transform": 0, "layers_pattern": "layer"},
    {"target_modules": "all-linear"},
    {"target_modules": r".*layer\.[01]\.(attention\.self\.value|intermediate\.dense)"},
    {"target_modules": r"^(?!.*pooler).*dense$"},
    {"target_modules": ["bert.encoder.layer.1.output.dense", "query"], "layers_to_transform": [0]},
]


@pytest.mark.parametrize("fields", NAMED)
def test_the_layers_that_a_config_names_are_those_of_peft(fields, bases, tmp_path):
    torch.manual_seed(2)
    settings = {"target_modules": ["query", "value"], "task_type": "SEQ_CLS", "r": 2} | fields
    model = peft.get_peft_model(theirs(bases["bert"], "bert"), peft.LoraConfig(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    inputs = draw("bert")
    before = tlx.load_pretrained(bases["bert"])
    np.testing.assert_allclose(
        our_logits(tlx.load_adapter(before, tmp_path), inputs), torch_logits(model, inputs), rtol=0, atol=TOLERANCE
    )
    # As written too: peft resolves "all-linear" when it saves.
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(document | fields))
    np.testing.assert_allclose(
        our_logits(tlx.load_adapter(before, tmp_path), inputs), torch_logits(model, inputs), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("fields", [{"target_modules": ["query"]}, {"layers_to_transform": [0]}])
def test_tensors_that_peft_leaves_out_are_refused(fields, bases, tmp_path):
    model = random_adapter("bert", "lora", bases["bert"], tmp_path)
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(document | fields))
    inputs = draw("bert")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = peft.PeftModel.from_pretrained(theirs(bases["bert"], "bert"), tmp_path).eval()
    assert not np.allclose(torch_logits(opened, inputs), torch_logits(model, inputs), atol=1e-2)
    with pytest.raises(ValueError, match="extra in the checkpoint"):
        tlx.load_adapter(tlx.load_pretrained(bases["bert"]), tmp_path)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("fields", [{}, {"rank_pattern": {"layers.0.attention.q_proj": 3}}])
def test_an_adapter_with_the_older_names_of_an_image_model_is_the_same(name, fields, bases, tmp_path):
    # The names that transformers 4 used in memory; its files still have them.
    stem = "encoder.layer" if name == "dinov2" else "layers"
    older = [(f"{name}.{stem}.", f"{name}.encoder.layer."), ("layers.", "encoder.layer.")]
    older += [(f"attention.{item[0]}_proj", f"attention.attention.{item}") for item in ("query", "key", "value")]
    older += [(f"{item[0]}_proj", item) for item in ("query", "key", "value")]
    older += [] if name == "dinov2" else [("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")]
    alphas = {"q_proj": 7, f"{name}.{stem}.1.attention.v_proj": 11}
    settings = {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": alphas, "r": 2, "lora_alpha": 3}
    if fields and name == "dinov2":
        fields = {"rank_pattern": {"layer.0.attention.q_proj": 3}}
    torch.manual_seed(2)
    config = peft.LoraConfig(**settings | fields, modules_to_save=["classifier"])
    model = peft.get_peft_model(theirs(bases[name], name), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)

    def change(text):
        for new, old in older:
            text = text.replace(new, old) if not (old.startswith("encoder") and f".{old}" in text) else text
        return text

    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({change(key): tensor for key, tensor in tensors.items()}, tmp_path / "adapter_model.safetensors")
    document = json.loads((tmp_path / "adapter_config.json").read_text())
    for field in ("alpha_pattern", "rank_pattern"):
        document[field] = {change(key): value for key, value in (document[field] or {}).items()}
    document["target_modules"] = ["query", "value"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(document))
    inputs = draw(name)
    tlx_side = tlx.load_adapter(tlx.load_pretrained(bases[name]), tmp_path)
    np.testing.assert_allclose(our_logits(tlx_side, inputs), torch_logits(model, inputs), rtol=0, atol=TOLERANCE)


def test_the_decision_is_that_of_peft():

    modules = [
        f"bert.encoder.layer.{n}.{name}" for n in (0, 1, 11) for name in ("attention.self.query", "output.dense")
    ]
    modules += [
        "layers.1.mlp.fc1",
        "vit.layers.1.mlp.fc1",
        "classifier",
        "pre_classifier",
        "bert.pooler.dense",
        "a.b.2",
    ]
    configs = [
        {"target_modules": value} | more
        for value in (
            ["dense"],
            ["query", "fc1"],
            ["layer.1.output.dense"],
            ["classifier"],
            r".*(query|fc\d)",
            "bert.*",
        )
        for more in (
            {},
            {"exclude_modules": ["query"]},
            {"exclude_modules": r".*\.1\..*"},
            {"modules_to_save": ["pooler"]},
            {"modules_to_save": ["layer.1", "classifier"]},
            *(
                {"layers_to_transform": layers, "layers_pattern": lists}
                for layers in ([], [1], 11, [0, 11])
                for lists in (None, "layer", ["layers", "layer"])
                if not isinstance(value, str)
            ),
        )
    ]
    for fields in configs:
        config = peft.LoraConfig(**fields)
        for module in modules:
            wanted = bool(check_target_module_exists(config, module))
            assert (why_not(fields, module) == "") == wanted, (fields, module)
    assert layer_number("bert.encoder.layer.11.output.dense", None) == 11
