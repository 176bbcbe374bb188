"""Adapters of tlx compared with `peft` on torch, in float32; each opens the files of the other: logits to 1e-5.

The base is a tiny random classifier of `transformers`; every number of the adapter is random. peft supports prefixes
and prompts for text only, and no prefix for DistilBERT, whose attention reads no earlier keys.
"""

import json
import re

import jax
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

import tlx
from tlx import tuning
from tlx.trees import flatten, nest

pytestmark = [
    pytest.mark.parity,
    pytest.mark.usefixtures("quick"),
    # A usual warning of peft with transformers 5. Any other warning of peft, about a file of tlx for example, is an
    # error.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
TOLERANCE = 1e-5
CLASSES = 3
TEXT = {
    "vocab_size": 23,
    "hidden_size": 15,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 13,
    "max_position_embeddings": 17,
    "type_vocab_size": 2,
    "pad_token_id": 1,
}
WORDS = {key: value for key, value in TEXT.items() if key != "type_vocab_size"}
DISTANCES = WORDS | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
DISTANCES |= {"position_buckets": 4, "position_biased_input": False, "norm_rel_ebd": "layer_norm"}
DISTIL = {
    "vocab_size": 23,
    "dim": 15,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 13,
    "max_position_embeddings": 17,
    "pad_token_id": 1,
}
IMAGE = {
    "image_size": 15,
    "patch_size": 4,
    "num_channels": 2,
    "hidden_size": 15,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
SWIN = {"image_size": 15, "patch_size": 4, "num_channels": 2, "embed_dim": 15, "depths": [2], "num_heads": [3]}
SWIN |= {"window_size": 2}
RESIDUAL = {"image_size": 15, "num_channels": 2, "embedding_size": 6, "hidden_sizes": [8, 12], "depths": [1, 1]}
INVERTED = {
    "image_size": 15, "num_channels": 2, "width_coefficient": 0.1, "depth_coefficient": 1.0, "hidden_dim": 128,
    "in_channels": [32, 90],
    "out_channels": [90, 120], "kernel_sizes": [3, 5], "strides": [1, 2], "num_block_repeats": [1, 2],
    "expand_ratios": [1, 3],
}  # fmt: skip
MODELS = {
    "bert": ("BertForSequenceClassification", TEXT),
    "roberta": ("RobertaForSequenceClassification", TEXT | {"type_vocab_size": 1}),
    "distilbert": ("DistilBertForSequenceClassification", DISTIL),
    "electra": ("ElectraForSequenceClassification", TEXT | {"embedding_size": 9}),
    "albert": ("AlbertForSequenceClassification", TEXT | {"embedding_size": 9}),
    "deberta": ("DebertaV2ForSequenceClassification", DISTANCES),
    "modernbert": ("ModernBertForSequenceClassification", WORDS | {"hidden_size": 18}),
    "mpnet": ("MPNetForSequenceClassification", WORDS),
    "gpt2": (
        "GPT2ForSequenceClassification",
        {"vocab_size": 23, "n_embd": 15, "n_layer": 2, "n_head": 3, "n_positions": 17, "pad_token_id": 1},
    ),
    "llama": ("LlamaForSequenceClassification", WORDS | {"hidden_size": 18}),
    "vit": ("ViTForImageClassification", IMAGE | {"intermediate_size": 13}),
    "deit": ("DeiTForImageClassificationWithTeacher", IMAGE | {"intermediate_size": 13}),
    "dinov2": ("Dinov2ForImageClassification", IMAGE | {"mlp_ratio": 2}),
    "siglip": ("SiglipForImageClassification", {"vision_config": IMAGE | {"intermediate_size": 13}}),
    "swin": ("SwinForImageClassification", SWIN),
    "resnet": ("ResNetForImageClassification", RESIDUAL),
    "efficientnet": ("EfficientNetForImageClassification", INVERTED),
}
TUNINGS = {
    "lora": tuning.Lora(rank=2, alpha=3.0, dropout=0.1),
    "rank-stabilised": tuning.Lora(rank=3, rank_stabilised=True, on=r".*/(query|mlp/up)"),
    "dora": tuning.Dora(rank=2, on=r".*/(key|mlp/down)"),
    "ia3": tuning.Ia3(),
    "vera": tuning.Vera(rank=4, on=r".*/(query|mlp/up|mlp/down)"),
    "prefix": tuning.Prefix(tokens=3),
    "prompt": tuning.Prompt(tokens=3),
}
# The adapters of these go the same way, from here to peft.
FURTHER = ("siglip", "swin")
# Adapters of single models: of convolutions, and of the layers that ModernBERT and GPT-2 have in both
# libraries.
SPECIAL = {
    ("modernbert", "lora"): tuning.Lora(rank=2, alpha=3.0, dropout=0.1, on=r".*/(attention/output|mlp/up|mlp/down)"),
    ("gpt2", "lora"): tuning.Lora(rank=2, alpha=3.0, dropout=0.1, on=r".*/(attention/output|mlp/up|mlp/down)"),
    ("gpt2", "dora"): tuning.Dora(rank=2, on=r".*/(attention/output|mlp/down)"),
    ("gpt2", "ia3"): tuning.Ia3(on=r".*/attention/output", inputs=r".*/mlp/down"),
    ("gpt2", "vera"): tuning.Vera(rank=4, on=r".*/mlp/up"),
    ("resnet", "lora"): tuning.Lora(rank=2, alpha=3.0, dropout=0.1, on=r"stem|blocks/.*/(first|second|shortcut)"),
    ("resnet", "dora"): tuning.Dora(rank=2, on=r"blocks/.*/(second|third)"),
    ("resnet", "ia3"): tuning.Ia3(on=r"blocks/.*/first", inputs=r"blocks/.*/third"),
    ("efficientnet", "lora"): tuning.Lora(rank=1, on=r"top|blocks/.*/(expand|project|reduce)"),
    ("efficientnet", "ia3"): tuning.Ia3(on=r"blocks/.*/middle", inputs=r"blocks/.*/project"),
}
# The names of the layers in peft: the tuned layers, and those of the feed-forward layer among them.
BERT = (["query", "value", "key"], "layer.1.output.dense")
NAMES = {
    "distilbert": (["q_lin", "v_lin", "k_lin"], "lin2"),
    "albert": (BERT[0], "ffn_output"),
    "deberta": (["query_proj", "value_proj", "key_proj"], BERT[1]),
    "modernbert": (["attn.Wo", "mlp.Wi", "mlp.Wo"], "mlp.Wo"),
    "mpnet": (["attn.q", "attn.v", "attn.k"], BERT[1]),
    "gpt2": (["attn.c_proj", "mlp.c_fc"], "mlp.c_proj"),
    "llama": (["q_proj", "v_proj", "k_proj"], "down_proj"),
} | {name: (["q_proj", "v_proj", "k_proj"], "fc2") for name in ("vit", "deit", "dinov2", *FURTHER)}
# Those of LoRA and of IA3 in a convolutional network; the last one is as the feed-forward layer.
CONVOLUTION_NAMES = {
    "resnet": (["embedder.convolution", "layer.0.convolution"], ["layer.0.convolution"], "layer.1.convolution"),
    "efficientnet": (["expand_conv", "squeeze_excite.reduce"], ["depthwise_conv.depthwise_conv"], "project_conv"),
}
IMAGES = ("vit", "deit", "dinov2", *CONVOLUTION_NAMES)
PAIRS = [
    (name, how)
    for name in MODELS
    if name not in CONVOLUTION_NAMES and name not in FURTHER
    for how in TUNINGS
    if not (how in ("prefix", "prompt") and name in IMAGES) and (name, how) != ("distilbert", "prefix")
    # These differ in names, in the width of an embedding, or in the scores of the attention.
    if name not in ("electra", "mpnet", "albert", "deberta", "deit", "dinov2") or how in ("lora", "prompt")
    if name != "modernbert" or how == "prompt"
    # peft lets the head of a decoder read padding after a prompt.
    if name != "gpt2" or how == "prefix"
    if name != "llama" or how in ("lora", "ia3", "prefix")
] + list(SPECIAL)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The directory of each base, with all parameters off their initial values."""
    results = {}
    for name, (built, fields) in MODELS.items():
        torch.manual_seed(0)
        kind = getattr(transformers, built)
        model = kind(kind.config_class(**fields, num_labels=CLASSES))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        results[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(results[name])
    return results


def theirs(base, name):
    return getattr(transformers, MODELS[name][0]).from_pretrained(base).eval()


def draw(name):
    """Inputs in the names of tlx: whole sentences, padded on the right, padded on the left; or images."""
    rng = np.random.default_rng(0)
    if name in (*IMAGES, *FURTHER):
        return {"image": rng.normal(size=(3, 15, 15, 2)).astype(np.float32)}
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5])
    inputs = {"input_ids": np.where(mask == 1, rng.integers(2, 23, mask.shape), 1), "attention_mask": mask}
    if name in ("bert", "electra", "albert"):
        inputs["token_type_ids"] = rng.integers(0, 2, mask.shape)
    return inputs


def torch_logits(model, inputs):
    if "image" in inputs:
        inputs = {"pixel_values": inputs["image"].transpose(0, 3, 1, 2)}
    with torch.no_grad():
        return model(**{name: torch.tensor(array) for name, array in inputs.items()}).logits.numpy()


def our_logits(pretrained, inputs):
    return tlx.forward(pretrained.model, pretrained.variables, inputs)[0]["logits"]


def shaken(pretrained, how):
    """The model with the parameters of the tuning; trainable parameters and head are random."""
    params = flatten(how.insert(pretrained.model, pretrained.variables.params, jax.random.key(0)))
    declared, rng = flatten(pretrained.model.params), np.random.default_rng(1)
    unchanged = ("scale", "dropout", "vera/a", "vera/b")
    for path, leaf in params.items():
        if path.startswith("head/") or (path not in declared and not path.endswith(unchanged)):
            params[path] = np.asarray(leaf) + 0.3 * rng.normal(size=leaf.shape).astype(np.float32)
    return pretrained._replace(variables=pretrained.variables._replace(params=nest(params)))


@pytest.mark.parametrize(("name", "how"), [*PAIRS, *((name, "lora") for name in FURTHER)])
def test_peft_opens_tlx_adapters_with_the_same_logits(name, how, bases, tmp_path):
    before = tlx.load_pretrained(bases[name])
    tlx_side = shaken(before, SPECIAL.get((name, how), TUNINGS[how]))
    tlx.save_adapter(tlx_side, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] != "TLX"
    inputs = draw(name)
    wanted = torch_logits(peft.PeftModel.from_pretrained(theirs(bases[name], name), tmp_path).eval(), inputs)
    np.testing.assert_allclose(our_logits(tlx_side, inputs), wanted, rtol=0, atol=TOLERANCE)
    assert not np.allclose(our_logits(before, inputs), wanted, atol=1e-3)
    # Reading the file again gives the written parameters.
    reopened = tlx.load_adapter(before, tmp_path).variables.params
    assert flatten(reopened).keys() == flatten(tlx_side.variables.params).keys()
    for path, leaf in flatten(tlx_side.variables.params).items():
        np.testing.assert_allclose(flatten(reopened)[path], leaf, rtol=1e-6, err_msg=path)


# Base parameters that move beside an adapter are saved as whole modules, and peft puts no adapter into such a module.
MOVED = [
    ("bert", tuning.Lora(rank=2), r".*/norm/.*|.*/mlp/.*", "LORA"),
    ("vit", tuning.Lora(rank=2), r"stem/patch/.*", "LORA"),
    ("bert", tuning.Prefix(tokens=3), r".*", "PREFIX_TUNING"),
    ("bert", tuning.Prompt(tokens=3), r".*/norm/.*", "PROMPT_TUNING"),
    ("roberta", tuning.Lora(rank=2, on="head/dense|.*/query"), r"", "TLX"),
    ("bert", tuning.Lora(rank=2), r".*", "TLX"),
    ("vit", tuning.Lora(rank=2), r".*/value/bias", "TLX"),
    ("bert", tuning.Ia3(), r".*/down/bias", "TLX"),
    ("bert", tuning.Vera(rank=3, on=r".*/(query|value)"), r".*/query/kernel", "TLX"),
    ("bert", tuning.Prompt(tokens=3), r"stem/words/.*", "TLX"),
]


@pytest.mark.parametrize(("name", "how", "moved", "kind"), MOVED)
def test_trained_base_parameters_are_in_the_form_of_peft_only_if_peft_opens_it(name, how, moved, kind, bases, tmp_path):
    before = tlx.load_pretrained(bases[name])
    leaves, rng = flatten(shaken(before, how).variables.params), np.random.default_rng(2)
    paths = [path for path in flatten(before.model.params) if re.fullmatch(moved, path)]
    leaves |= {path: leaves[path] + 0.3 * rng.normal(size=leaves[path].shape).astype(np.float32) for path in paths}
    tlx_side = before._replace(variables=before.variables._replace(params=nest(leaves)))
    tlx.save_adapter(tlx_side, tmp_path, moved=paths)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == kind
    inputs = draw(name)
    logits = our_logits(tlx_side, inputs)
    np.testing.assert_allclose(our_logits(tlx.load_adapter(before, tmp_path), inputs), logits, rtol=0, atol=TOLERANCE)
    if kind != "TLX":
        wanted = torch_logits(peft.PeftModel.from_pretrained(theirs(bases[name], name), tmp_path).eval(), inputs)
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)


def peft_config(name, how):
    adapted, inner = NAMES.get(name, BERT)
    adapted, scaled = adapted[:2], adapted[1:]
    if name in CONVOLUTION_NAMES:
        adapted, scaled, inner = CONVOLUTION_NAMES[name]
    task = None if name in IMAGES else "SEQ_CLS"
    remaining = {"modules_to_save": ["classifier"]} if name in IMAGES else {}
    dimensions = {
        "token_dim": {"electra": 9, "albert": 9, "modernbert": 18}.get(name, 15),
        "num_layers": 2,
        "num_attention_heads": 3,
    }
    tokens = {"task_type": task, "num_virtual_tokens": 3, **dimensions}
    if name == "gpt2":
        remaining = {"fan_in_fan_out": True}
    lora = {"task_type": task, "target_modules": [*adapted, inner], **remaining}
    return {
        "lora": lambda: peft.LoraConfig(r=2, lora_alpha=3, rank_pattern={inner: 4}, alpha_pattern={inner: 5}, **lora),
        "rank-stabilised": lambda: peft.LoraConfig(r=4, use_rslora=True, lora_dropout=0.1, **lora),
        "dora": lambda: peft.LoraConfig(r=2, use_dora=True, **lora),
        "ia3": lambda: peft.IA3Config(
            task_type=task, target_modules=[*scaled, inner], feedforward_modules=[inner], **remaining
        ),
        "vera": lambda: peft.VeraConfig(r=4, **lora),
        "prefix": lambda: peft.PrefixTuningConfig(**tokens | {"token_dim": 18 if name == "llama" else 15}),
        "prompt": lambda: peft.PromptTuningConfig(**tokens),
    }[how]()


@pytest.mark.parametrize(("name", "how"), PAIRS)
def test_tlx_opens_peft_adapters_with_the_same_logits(name, how, bases, tmp_path):
    torch.manual_seed(2)
    model = peft.get_peft_model(theirs(bases[name], name), peft_config(name, how)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs")
    inputs = draw(name)
    wanted = torch_logits(model, inputs)
    tlx_side = tlx.load_adapter(tlx.load_pretrained(bases[name]), tmp_path / "theirs")
    np.testing.assert_allclose(our_logits(tlx_side, inputs), wanted, rtol=0, atol=TOLERANCE)
    # Every tensor of the file has a line in the manifest.
    recorded = {line.foreign for line in tlx_side.manifest.entries}
    assert set(load_file(tmp_path / "theirs" / "adapter_model.safetensors")) <= recorded
    # And back again.
    tlx.save_adapter(tlx_side, tmp_path / "ours")
    second = peft.PeftModel.from_pretrained(theirs(bases[name], name), tmp_path / "ours").eval()
    np.testing.assert_allclose(torch_logits(second, inputs), wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("begun", "stays"), [("gaussian", True), ("orthogonal", True), ("pissa", False), ("olora", False)]
)
def test_only_adapters_by_which_peft_changes_its_base_are_refused(begun, stays, bases, tmp_path):
    torch.manual_seed(2)
    settings = {"r": 2, "target_modules": ["query"], "init_lora_weights": begun, "task_type": "SEQ_CLS"}
    peft.get_peft_model(theirs(bases["bert"], "bert"), peft.LoraConfig(**settings)).save_pretrained(tmp_path)
    opened = peft.PeftModel.from_pretrained(theirs(bases["bert"], "bert"), tmp_path)
    kernel = "bert.encoder.layer.0.attention.self.query"
    stored = opened.get_submodule(f"base_model.model.{kernel}.base_layer").weight
    assert torch.equal(stored, theirs(bases["bert"], "bert").get_submodule(kernel).weight) == stays
    before = tlx.load_pretrained(bases["bert"])
    if stays:
        tlx.load_adapter(before, tmp_path)
    else:
        with pytest.raises(ValueError, match="sets init_lora_weights to"):
            tlx.load_adapter(before, tmp_path)


def test_with_a_head_that_transformers_lacks_peft_opens_only_the_backbone(bases, tmp_path):
    before = tlx.load_pretrained(bases["bert"], pooling="mean")
    tlx_side = shaken(before, TUNINGS["dora"])
    tlx.save_adapter(tlx_side, tmp_path)
    inputs = draw("bert")
    backbone = transformers.AutoModel.from_pretrained(bases["bert"])
    model = peft.PeftModel.from_pretrained(backbone, tmp_path).eval()
    with torch.no_grad():
        hidden = model(**{name: torch.tensor(array) for name, array in inputs.items()}).last_hidden_state.numpy()
    real = inputs["attention_mask"] > 0
    taps, _ = tlx.forward(tlx_side.model, tlx_side.variables, inputs)
    np.testing.assert_allclose(np.asarray(taps["hidden"])[real], hidden[real], rtol=0, atol=TOLERANCE)
    assert np.array_equal(our_logits(tlx.load_adapter(before, tmp_path), inputs), taps["logits"])
