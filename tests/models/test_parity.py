"""The transformers of tlx compared with `transformers` on torch, in float32: hidden states, logits, and every gradient.

Every torch parameter is moved off its initial value, because a bias of 0 or a scale of 1 hides a wrong function. Values
must agree to a maximal absolute difference of 1e-5, gradients to a relative difference of 1e-5 in the Euclidean norm.
One parameter is measured against another: the gradient of the bias of a key is zero except for rounding, because
softmax does not depend on a shift of all scores (in DeBERTa the bias of the keys of distances, too). Its limit is 1e-5
of the norm of the gradient of the kernel.
"""

import json
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from tlx.layers.disentangled import log_buckets
from tlx.models import Head, Llama, MPNet, PerToken, Pooled, Vocabulary, build, forward, vit
from tlx.models.names import inward
from tlx.trees import flatten, nest
from tlx.types import Stage, Variables
from tlx.weights import load_pretrained, save_pretrained
from tlx.weights.formats import foreign, foreign_kinds
from tlx.weights.formats.base import LANGUAGE
from tlx.weights.formats.vit import VitFormat

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5
# Compared in float64: the sums of their blocks reach 9, and there both sides differ in float32 by up to 8e-6 from the
# numbers in float64, on some processors.
WIDE = ("modernbert-mean", "modernbert-tokens")
CLASSES = 3


class Case(NamedTuple):
    """A class of `transformers` and the fields of its configuration."""

    model: str
    fields: dict[str, Any]


TEXT = {
    "vocab_size": 23,
    "hidden_size": 15,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 13,
    "max_position_embeddings": 17,
    "type_vocab_size": 3,
    "pad_token_id": 1,
}
WORDS = {key: value for key, value in TEXT.items() if key != "type_vocab_size"}
MODERN = WORDS | {
    "hidden_size": 18,
    "num_hidden_layers": 4,
    # So wide that padding also has a token in its window: otherwise its output is undefined.
    "local_attention": 8,
    "rope_parameters": {"full_attention": {"rope_theta": 30.0}, "sliding_attention": {"rope_theta": 5.0}},
}
# The settings of DeBERTa v2 and v3: few buckets, so that distances share them.
THIRD = WORDS | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 4,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
SECOND = THIRD | {"conv_kernel_size": 3, "position_biased_input": True, "embedding_size": 9, "position_buckets": -1}
SECOND |= {"max_relative_positions": 5, "norm_rel_ebd": "none"}
BIASED = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
DISTIL = {"vocab_size": 23, "dim": 15, "n_layers": 3, "n_heads": 3, "hidden_dim": 13, "max_position_embeddings": 17}
PLAIN = {
    "image_size": 15,
    "patch_size": 4,
    "num_channels": 2,
    "hidden_size": 15,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
}
IMAGE = PLAIN | {"intermediate_size": 13}
SHORT = PLAIN | {"num_hidden_layers": 1}
ROTATED = IMAGE | {"num_hidden_layers": 2, "hidden_size": 24, "image_size": [17, 26], "rope_theta": 30.0}

CASES = {
    "bert": Case("BertModel", TEXT),
    "bert-head": Case("BertForSequenceClassification", TEXT | {"hidden_act": "relu"}),
    "roberta": Case("RobertaModel", TEXT | {"hidden_act": "silu"}),
    "roberta-head": Case("RobertaForSequenceClassification", TEXT | {"hidden_act": "gelu_new", "type_vocab_size": 1}),
    "distilbert": Case("DistilBertModel", DISTIL),
    "distilbert-head": Case("DistilBertForSequenceClassification", DISTIL | {"activation": "relu"}),
    "electra": Case("ElectraModel", TEXT | {"embedding_size": 15, "hidden_act": "gelu_new"}),
    "electra-head": Case("ElectraForSequenceClassification", TEXT | {"embedding_size": 9}),
    "bert-tokens": Case("BertForTokenClassification", TEXT),
    "roberta-tokens": Case("RobertaForTokenClassification", TEXT | {"hidden_act": "relu"}),
    "distilbert-tokens": Case("DistilBertForTokenClassification", DISTIL),
    "electra-tokens": Case("ElectraForTokenClassification", TEXT | {"embedding_size": 9}),
    "bert-words": Case("BertForMaskedLM", TEXT | {"hidden_act": "relu"}),
    "roberta-words": Case("RobertaForMaskedLM", TEXT | {"hidden_act": "silu"}),
    "distilbert-words": Case("DistilBertForMaskedLM", DISTIL | {"activation": "relu"}),
    "electra-words": Case("ElectraForMaskedLM", TEXT | {"embedding_size": 9, "hidden_act": "relu"}),
    "mpnet": Case("MPNetModel", WORDS | {"hidden_act": "silu"}),
    "mpnet-head": Case("MPNetForSequenceClassification", WORDS | {"hidden_act": "gelu_new"}),
    "mpnet-tokens": Case("MPNetForTokenClassification", WORDS | {"hidden_act": "relu"}),
    "albert": Case("AlbertModel", TEXT | {"embedding_size": 9, "num_hidden_groups": 2}),
    "albert-head": Case("AlbertForSequenceClassification", TEXT | {"embedding_size": 15, "hidden_act": "relu"}),
    "albert-tokens": Case("AlbertForTokenClassification", TEXT | {"embedding_size": 9, "inner_group_num": 2}),
    "modernbert": Case("ModernBertModel", MODERN | {"hidden_activation": "silu", "local_attention": 7}),
    "modernbert-head": Case(
        "ModernBertForSequenceClassification", MODERN | {"classifier_activation": "relu", **BIASED}
    ),
    "modernbert-mean": Case("ModernBertForSequenceClassification", MODERN | {"classifier_pooling": "mean"}),
    "modernbert-tokens": Case("ModernBertForTokenClassification", MODERN | {"classifier_pooling": "mean"}),
    "deberta": Case("DebertaV2Model", SECOND | {"conv_act": "gelu", "type_vocab_size": 3}),
    "deberta-head": Case("DebertaV2ForSequenceClassification", THIRD | {"hidden_act": "silu"}),
    "deberta-tokens": Case("DebertaV2ForTokenClassification", SECOND | {"share_att_key": False, "conv_groups": 3}),
    "deberta-plain": Case("DebertaV2ForSequenceClassification", TEXT | {"hidden_act": "relu"}),
    "vit": Case("ViTModel", IMAGE | {"hidden_act": "silu"}),
    "vit-head": Case("ViTForImageClassification", IMAGE | {"image_size": [11, 18], "qkv_bias": False}),
    "deit": Case("DeiTModel", IMAGE | {"hidden_act": "gelu_new"}),
    "deit-head": Case("DeiTForImageClassification", IMAGE | {"hidden_act": "relu", "num_channels": 3}),
    "deit-teacher": Case("DeiTForImageClassificationWithTeacher", IMAGE),
    "dinov2": Case("Dinov2Model", PLAIN | {"mlp_ratio": 2}),
    "dinov2-head": Case("Dinov2ForImageClassification", PLAIN | {"layerscale_value": 0.1, "hidden_act": "relu"}),
    "registers": Case("Dinov2WithRegistersModel", SHORT | {"mlp_ratio": 2}),
    "registers-head": Case("Dinov2WithRegistersForImageClassification", SHORT | {"num_register_tokens": 2}),
    "dinov3": Case("DINOv3ViTModel", ROTATED | {"num_register_tokens": 3}),
    "dinov3-gated": Case("DINOv3ViTModel", ROTATED | {"use_gated_mlp": True, "hidden_act": "silu", "key_bias": True}),
    "siglip": Case("SiglipVisionModel", IMAGE | SHORT),
    "siglip-head": Case("SiglipForImageClassification", {"vision_config": IMAGE | SHORT | {"hidden_act": "relu"}}),
    "dinov2-gated": Case("Dinov2ForImageClassification", PLAIN | {"use_swiglu_ffn": True, "mlp_ratio": 3}),
}


# The beginnings of the names of the classes of decoders.
DECODERS = ("GPT2", "Llama", "Mistral", "Qwen", "Gemma")


def head_of(case: Case, outputs: int = CLASSES) -> Head | None:
    """Return the head of the tlx model for a class of `transformers`."""
    if case.model.endswith("ForTokenClassification"):
        return PerToken(outputs)
    if case.model.endswith(LANGUAGE):
        return Vocabulary()
    return None if case.model.endswith("Model") else Pooled(outputs)


def reference(case: Case) -> Any:
    """The torch model in evaluation mode, with every parameter off its initial value."""
    kind = getattr(transformers, case.model)
    torch.manual_seed(0)
    config = kind.config_class(**case.fields, num_labels=CLASSES)
    if case.model.startswith(DECODERS):
        # Padding on the left sees no token. Only this implementation gives it a value, which the loss here reads.
        config._attn_implementation = "eager"
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def draw(case: Case) -> dict[str, np.ndarray]:
    """Inputs in the names of tlx: whole sentences, padded on the right, padded on the left; or images."""
    rng = np.random.default_rng(0)
    fields = case.fields.get("vision_config", case.fields)
    if "image_size" in fields:
        size = fields["image_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return {"image": rng.normal(size=(3, height, width, fields["num_channels"])).astype(np.float32)}
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5])
    ids = rng.integers(2, case.fields["vocab_size"], mask.shape)
    if case.model.startswith(("Roberta", "MPNet", *DECODERS)):
        ids = np.where(mask == 1, ids, case.fields["pad_token_id"])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if kinds := case.fields.get("type_vocab_size"):
        inputs["token_type_ids"] = rng.integers(0, kinds, mask.shape)
    return inputs


def as_torch(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    if "image" in inputs:
        return {"pixel_values": torch.tensor(inputs["image"].transpose(0, 3, 1, 2))}
    return {name: torch.tensor(array) for name, array in inputs.items()}


def stored(model: Any, state: dict[str, Any], folder: Any) -> dict[str, np.ndarray]:
    """Return the arrays of `state` as `save_pretrained` writes them; names and shapes differ from those in memory."""
    model.save_pretrained(folder, state_dict=state)
    return safetensors.numpy.load_file(folder / "model.safetensors")


def tlx_params(module: Any, config: Any, head: Head | None, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Read the tlx parameters by path from tensors with foreign names; unread tensors must be allowed."""
    prefix = "" if module.bare(config, head) else module.prefix(config)
    named = [(name, name.foreign if name.head else prefix + name.foreign) for name in module.names(config, head)]
    for unread in tensors.keys() - {key for _, key in named}:
        assert any(re.fullmatch(pattern, unread) for pattern in module.ignored(config, head)), unread
    return {name.ours: inward(name, tensors[key]) for name, key in named}


def cross_entropy(scores: jax.Array) -> jax.Array:
    scores = scores.reshape(-1, scores.shape[-1])
    labels = jnp.arange(len(scores)) % scores.shape[-1]
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=-1).mean()


def torch_cross_entropy(scores: Any) -> Any:
    scores = scores.reshape(-1, scores.shape[-1])
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)) % scores.shape[-1])


def norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float64)))


def gradient_differences(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Return by path the norm of the difference, divided by the norm of the reference gradient."""
    yardstick = {path: path.replace("key/bias", "key/kernel") for path in wanted}
    return {path: norm(got[path] - wanted[path]) / norm(wanted[yardstick[path]]) for path in wanted}


def without_padding(config: Any, gradient: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The gradient with 0 in the rows of the padding id, as torch declares it (`padding_idx`).

    The true gradient is not 0 if a class token is read from padding, as in RoBERTa and MPNet with padding on the left.
    """
    counted = isinstance(config, MPNet) or getattr(config, "family", "") == "roberta"
    rows = ("stem/words/embedding", "stem/positions/embedding") if counted else ()
    rows = ("stem/words/embedding",) if isinstance(config, Llama) else rows
    return {p: np.asarray(g.at[config.pad].set(0) if p in rows else g) for p, g in gradient.items()}


def states_of(stage: Stage) -> list[str]:
    """Return the taps of a stage that are hidden states of `transformers`: those of all passes of ALBERT."""
    return [f"{stage.name}/{name}" for name in stage.others if name.startswith("pass_")] or [stage.name]


def compare(torch_model: Any, inputs: dict[str, np.ndarray], folder: Any, compiled: bool = False) -> dict[str, float]:
    """Return the differences between both implementations of one model: values by tap, and `gradients` at the worst
    parameter.
    """
    head = head_of(Case(type(torch_model).__name__, {}))
    headed = head is not None
    parameters = dict(torch_model.named_parameters())
    tensors = stored(torch_model, {name: p.detach() for name, p in parameters.items()}, folder / "values")
    document = json.loads((folder / "values" / "config.json").read_text())
    module = foreign(document["model_type"])
    config = module.read(document)
    model = build(config, head)
    leaves = tlx_params(module, config, head, tensors)
    assert {path: leaf.shape for path, leaf in leaves.items()} == {
        path: param.shape for path, param in flatten(model.params).items()
    }

    text = "input_ids" in inputs
    result = torch_model(**as_torch(inputs), output_hidden_states=headed or text)
    if not headed:
        wanted = {"hidden": result.last_hidden_state, "pooled": result.get("pooler_output")}
    else:
        # The last one is the final hidden state of BERT, but comes before the final norm of a ViT.
        last = {"hidden": result.hidden_states[-1]} if text else {}
        wanted = last | {"logits": result.logits}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    dtype = str(torch_model.dtype).removeprefix("torch.")
    scores = wanted.get("logits", wanted.get("pooled"))
    torch_cross_entropy(wanted["hidden"].mean(1) if scores is None else scores).backward()

    def loss(params: Any) -> Any:
        taps, _ = forward(model, Variables(params, {}), inputs, dtype=dtype)
        # The class of a decoder without a head has no features of the whole text.
        scores = taps.get("logits", taps.get("pooled") if "pooled" in wanted else None)
        return cross_entropy(taps["hidden"].mean(1) if scores is None else scores), taps

    both = jax.value_and_grad(loss, has_aux=True)
    (_, taps), gradient = (jax.jit(both) if compiled else both)(nest(leaves))
    real = inputs.get("attention_mask", np.ones(wanted["hidden"].shape[:2]) if "hidden" in wanted else None)
    if text:
        # The last hidden states of `transformers` are those after the last norm.
        last = [stage.name for stage in model.stages if stage.name == "norm"]
        states = [state for stage in model.stages if stage.output == "hidden" for state in states_of(stage)]
        wanted |= dict(zip(states[:-2] + last if last else states, result.hidden_states, strict=True))
    results = {}
    for name, value in wanted.items():
        difference = np.abs(np.asarray(taps[name]) - value.detach().numpy())
        results[name] = float((difference[real > 0] if name != "logits" and difference.ndim == 3 else difference).max())
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
    reference_side = tlx_params(module, config, head, stored(torch_model, grads, folder / "gradients"))
    got = without_padding(config, flatten(gradient))
    if isinstance(head, Vocabulary):
        # Of the row of padding torch keeps the gradient of the last layer alone.
        got, reference_side = (
            {
                path: np.delete(leaf, config.pad, 0) if path == "stem/words/embedding" else leaf
                for path, leaf in side.items()
            }
            for side in (got, reference_side)
        )
    differences = gradient_differences(got, reference_side)
    return results | {"gradients": max(differences.values())}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CASES)
def test_random_models_agree(name, tmp_path):
    inputs, model = draw(CASES[name]), reference(CASES[name])
    with jax.enable_x64(name in WIDE):
        actual = compare(model.double() if name in WIDE else model, inputs, tmp_path, compiled="image" in inputs)
    assert {"hidden" if head_of(CASES[name]) is None else "logits", "gradients"} <= actual.keys()
    assert max(actual.values()) <= TOLERANCE, actual


def test_minilm_agrees(tmp_path):
    from tlx.assets import extract

    torch_model = transformers.AutoModel.from_pretrained(extract("minilm-l6")).eval()
    rng = np.random.default_rng(0)
    mask = np.array([[1] * 21, [1] * 13 + [0] * 8])
    inputs = {"input_ids": rng.integers(1000, 30000, mask.shape), "attention_mask": mask}
    actual = compare(torch_model, inputs, tmp_path, compiled=True)
    assert actual.keys() == {"stem", *(f"blocks/{n:02}" for n in range(6)), "hidden", "pooled", "gradients"}
    assert max(actual.values()) <= TOLERANCE, actual


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2", "registers-head"])
@pytest.mark.parametrize("size", [(9, 9), (27, 27), (17, 26)])
def test_positions_resize_as_in_transformers(name, size):
    model = reference(CASES[name]).base_model
    config = VitFormat().read(model.config.to_dict())
    positions = model.embeddings.position_embeddings
    tokens = torch.zeros(1, len(vit.TOKENS[config.family]) + (size[0] // 4) * (size[1] // 4), 15)
    wanted = model.embeddings.interpolate_pos_encoding(tokens, *size)[0].detach().numpy()
    got = vit.resize_positions(config, positions[0].detach().numpy(), size)
    np.testing.assert_allclose(got, wanted, atol=TOLERANCE)


@pytest.mark.parametrize(("buckets", "furthest"), [(4, 17), (6, 512), (256, 512)])
def test_distances_share_buckets_as_in_transformers(buckets, furthest):
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distance = np.arange(-furthest + 1, furthest)
    wanted = make_log_bucket_position(torch.tensor(distance), buckets, furthest).long().numpy()
    np.testing.assert_array_equal(log_buckets(distance, buckets, furthest), wanted)
    assert wanted.max() < buckets


@pytest.mark.parametrize("name", CASES)
def test_a_config_is_read_as_it_was_written(name):
    check_config(CASES[name])


def check_config(case: Case) -> None:
    """Check that config.json is read, written and read again without a change, in tlx and in `transformers`."""
    config_class = getattr(transformers, case.model).config_class
    document = config_class(**case.fields).to_dict() | {"architectures": [case.model]}
    module = foreign(document["model_type"])
    config = module.read(document)
    assert module.head_in(document) == (None if head_of(case) is None else type(head_of(case)))
    written = module.write(config, head_of(case), {})
    assert module.read(written) == config
    assert written["architectures"] == [case.model]
    # Every number that tlx writes exists in transformers with the same name, and is used.
    reference_side = config_class.from_dict(written).to_dict()
    absent = UNUSED - reference_side.keys()
    assert holds(reference_side, {key: value for key, value in written.items() if key not in absent})


# Fields that some of the classes leave out.
UNUSED = {"classifier_dropout"}


def holds(document: Any, part: Any) -> bool:
    """Return whether a document has all fields of `part`, with equal values."""
    if isinstance(part, dict):
        return all(holds(document.get(key), value) for key, value in part.items())
    return bool(document == part)


@pytest.mark.parametrize("kind", [kind for kind, form in foreign_kinds().items() if form.layout == "transformers"])
def test_missing_fields_have_the_defaults_of_transformers(kind):
    config_class = transformers.AutoConfig.for_model(kind).__class__
    assert foreign(kind).read({"model_type": kind}) == foreign(kind).read(config_class().to_dict())


# Tensors that pretraining or another class reads, and tlx does not keep.
LOST = re.compile(r".*mask_token|vision_model\.head\..*")


@pytest.mark.parametrize("name", ["registers-head", "registers", "dinov3", "dinov3-gated", "siglip", "siglip-head"])
def test_weights_return_as_they_came(tmp_path, name):
    check_return(CASES[name], tmp_path)


def check_return(case: Case, tmp_path: Any) -> None:
    """Check that tlx opens a directory of `transformers`, which opens that of tlx with the same numbers."""
    model = reference(case)
    model.save_pretrained(tmp_path / "theirs")
    save_pretrained(load_pretrained(tmp_path / "theirs"), tmp_path / "ours")
    again, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert again.config.architectures == model.config.architectures or model.config.architectures is None
    wanted = {key: tensor for key, tensor in model.state_dict().items() if not LOST.fullmatch(key)}
    for key, tensor in wanted.items():
        assert torch.equal(tensor, again.state_dict()[key]), key
