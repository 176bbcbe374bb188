"""BART and mBART compared with `transformers` on torch: hidden states, logits, loss, every gradient, and written texts.

The limits are those of `test_parity.py`. Hidden states are compared where a token is not padding.
"""

import json
from typing import Any

import jax
import numpy as np
import peft
import pytest
import torch
import transformers

from tests.models.test_parity import (
    CLASSES,
    TOLERANCE,
    Case,
    gradient_differences,
    head_of,
    holds,
    reference,
    stored,
    tlx_params,
)
from tests.models.test_parity_t5 import loss_of
from tlx import tuning
from tlx.models import Vocabulary, beam_search, build, forward, generate
from tlx.models.names import STATS
from tlx.trees import flatten, nest
from tlx.types import Variables
from tlx.weights import export_pretrained, load_adapter, load_pretrained, save_adapter, save_pretrained
from tlx.weights.formats import foreign

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("quick")]

# The two stacks differ in every size that may differ.
SIZES = {
    "vocab_size": 23,
    "d_model": 15,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 5,
    "encoder_ffn_dim": 13,
    "decoder_ffn_dim": 11,
    "max_position_embeddings": 17,
    "decoder_start_token_id": 2,
}
SCALED = SIZES | {"scale_embedding": True}
CASES = {
    "bart": Case("BartModel", SIZES | {"activation_function": "gelu_new"}),
    "bart-words": Case("BartForConditionalGeneration", SIZES),
    "bart-head": Case("BartForSequenceClassification", SCALED | {"activation_function": "relu"}),
    "mbart": Case("MBartModel", SIZES | {"encoder_layers": 2, "decoder_layers": 1}),
    "mbart-words": Case("MBartForConditionalGeneration", SCALED | {"activation_function": "silu"}),
    "mbart-head": Case("MBartForSequenceClassification", SCALED),
}


def torch_model(case: Case) -> Any:
    """Return the model of `reference`, with a bias of the words that is not 0."""
    model = reference(case)
    with torch.no_grad():
        for _, bias in biases(model):
            bias.add_(0.3 * torch.randn_like(bias))
    return model


def talkative(model: Any) -> Any:
    """Return the model, changed so that it writes different words at different places and for different texts."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "decoder.embed_positions" in name:
                parameter.mul_(4)
            elif "encoder_attn" in name and name.endswith("weight"):
                parameter.mul_(2)
            elif "decoder" in name and name.endswith("norm.bias"):
                parameter.zero_()
    return model


def biases(model: Any) -> list[tuple[str, Any]]:
    """Return the bias of the words, which `transformers` does not train."""
    return [(name, buffer) for name, buffer in model.named_buffers() if name == "final_logits_bias"]


def draw(case: Case) -> dict[str, np.ndarray]:
    """Inputs with padding on both sides in both texts; each text ends in the end word 2, with padding 1."""
    rng = np.random.default_rng(0)
    mask = np.array([[1] * 9, [1] * 5 + [0] * 4, [0] * 3 + [1] * 6])
    words = rng.integers(3, 23, mask.shape)
    words[[0, 1, 2], [8, 4, 8]] = 2
    inputs = {"input_ids": np.where(mask == 1, words, 1), "attention_mask": mask}
    if not case.model.endswith("Classification"):
        targets = np.array([[1] * 7, [0] * 2 + [1] * 5, [1] * 3 + [0] * 4])
        words = np.where(targets == 1, rng.integers(2, 23, targets.shape), 1)
        inputs |= {"decoder_input_ids": words, "decoder_attention_mask": targets}
    return inputs


def labels_of(case: Case, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return a label for each output; -100 where a token is padding and has no loss."""
    rng, mask = np.random.default_rng(1), inputs.get("decoder_attention_mask")
    if isinstance(head_of(case), Vocabulary):
        return np.where(mask == 1, rng.integers(0, 23, mask.shape), -100)
    return rng.integers(0, CLASSES, len(inputs["input_ids"]))


def record_states(model: Any, states: dict[str, Any]) -> None:
    """Record the hidden states of torch by the tap of tlx."""
    stems = {"encoder": ("stem", "encoder_norm"), "decoder": ("decoder_stem", "norm")}

    def recorded(path: str) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            states[path] = output[0] if isinstance(output, tuple) else output

        return hook

    for name, stack in model.named_modules():
        if (kind := name.rpartition(".")[2]) in stems:
            first, last = stems[kind]
            stack.layernorm_embedding.register_forward_hook(recorded(first))
            if hasattr(stack, "layer_norm"):
                stack.layer_norm.register_forward_hook(recorded(last))
            for number, block in enumerate(stack.layers):
                block.register_forward_hook(recorded(f"{kind}/{number:02d}"))


def without_padding(leaves: dict[str, Any], words: bool) -> dict[str, np.ndarray]:
    """Return gradients without that of the embedding of padding: torch keeps only the part of the last layer."""
    path = "stem/words/embedding"
    table = np.array(leaves[path])
    table = np.delete(table, 1, 0) if words else np.concatenate([table[:1], 0 * table[:1], table[2:]])
    return {name: np.asarray(leaf) for name, leaf in leaves.items()} | {path: table}


@pytest.mark.parametrize("name", CASES)
def test_random_models_agree(name, tmp_path):
    case, model = CASES[name], torch_model(CASES[name])
    inputs, head = draw(case), head_of(case)
    labels = labels_of(case, inputs)
    parameters, buffers = dict(model.named_parameters()), dict(biases(model))
    tensors = stored(model, {key: p.detach() for key, p in (parameters | buffers).items()}, tmp_path / "values")
    document = json.loads((tmp_path / "values" / "config.json").read_text())
    module = foreign(document["model_type"])
    config = module.read(document)
    built = build(config, head)
    leaves = tlx_params(module, config, head, tensors)
    stats = {path.removeprefix(STATS): leaves.pop(path) for path in list(leaves) if path.startswith(STATS)}
    for arrays, declared in ((leaves, built.params), (stats, built.stats)):
        assert {path: a.shape for path, a in arrays.items()} == {p: leaf.shape for p, leaf in flatten(declared).items()}
    # Without a mask all words of the decoder are read.
    masks = {False: inputs["attention_mask"]}
    masks[True] = last = inputs.get("decoder_attention_mask", np.ones_like(masks[False]))

    arguments = {key: torch.tensor(array) for key, array in inputs.items()}
    arguments |= {} if head is None else {"labels": torch.tensor(labels)}
    wanted: dict[str, Any] = {}
    record_states(model, wanted)
    result = model(**arguments)
    hidden = result.get("last_hidden_state")
    loss = (hidden * torch.tensor(last)[..., None]).mean() if head is None else result.loss
    loss.backward()

    def ours(params: Any) -> Any:
        taps, _ = forward(built, Variables(params, nest(stats)), inputs)
        return loss_of(taps, labels, last), taps

    (our_loss, taps), gradient = jax.value_and_grad(ours, has_aux=True)(nest(leaves))
    differences = {"loss": abs(float(our_loss) - loss.item())}
    assert wanted.keys() == {stage.name for stage in built.stages if stage.output == "hidden"}
    for path, state in wanted.items():
        real = masks[path.startswith(("decoder", "norm"))] > 0
        differences[path] = float(abs(np.asarray(taps[path]) - state.detach().numpy())[real].max())
    if head is not None:
        difference = abs(np.asarray(taps["logits"]) - result.logits.detach().numpy())
        differences["logits"] = float((difference if difference.ndim == 2 else difference[last > 0]).max())
    grads = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in parameters.items()} | buffers
    theirs = tlx_params(module, config, head, stored(model, grads, tmp_path / "gradients"))
    theirs = {path: leaf for path, leaf in theirs.items() if not path.startswith(STATS)}
    words = isinstance(head, Vocabulary)
    both = without_padding(flatten(gradient), words), without_padding(theirs, words)
    differences |= gradient_differences(*both)
    assert max(differences.values()) <= TOLERANCE, differences


@pytest.mark.parametrize("name", CASES)
def test_a_config_is_read_as_it_was_written(name):
    case = CASES[name]
    config_class = getattr(transformers, case.model).config_class
    document = config_class(**case.fields).to_dict() | {"architectures": [case.model]}
    module = foreign(document["model_type"])
    config, head = module.read(document), head_of(case)
    assert module.head_in(document) == (None if head is None else type(head))
    written = module.write(config, head, {})
    assert module.read(written) == config
    assert written["architectures"] == [case.model]
    # A forced first word is kept in generation_config.json.
    assert written.pop("forced_bos_token_id") is None
    assert holds(config_class.from_dict(written).to_dict(), written)


@pytest.mark.parametrize("name", ["bart", "bart-words", "mbart-head"])
def test_weights_return_as_they_came(tmp_path, name):
    model, head = torch_model(CASES[name]), head_of(CASES[name])
    model.save_pretrained(tmp_path / "theirs")
    pretrained = load_pretrained(tmp_path / "theirs", model=None)
    assert type(pretrained.model.head) is type(head)
    export_pretrained(pretrained, tmp_path / "ours")
    again, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    wanted = model.state_dict()
    assert wanted.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in wanted.items())


# The first and the last word that each model must write, as in the published models for summaries and translation, and
# a word that ends some texts.
FORCED = {"bart-words": (0, 2, 3), "mbart-words": (7, None, 17)}
LONGEST = 7
SETTINGS = {"bart-words": [(2.0, True)], "mbart-words": [(1.0, False), (-1.0, False)]}


@pytest.mark.parametrize("name", FORCED)
def test_written_texts_are_those_of_transformers(name, tmp_path):
    """Greedy and by beams, with the words that transformers reads from generation_config.json and from config.json."""
    first, last, stop = FORCED[name]
    model = talkative(torch_model(CASES[name]))
    model.generation_config.forced_bos_token_id = first
    model.generation_config.forced_eos_token_id = last
    model.save_pretrained(tmp_path / "theirs")
    loaded = load_pretrained(tmp_path / "theirs")
    assert loaded.model.config.forced_words() == (first, last)
    save_pretrained(loaded, tmp_path / "ours")
    # Neither file of tlx is generation_config.json.
    again = type(model).from_pretrained(tmp_path / "ours")
    assert again.generation_config.forced_bos_token_id == first
    inputs = draw(CASES["bart-head"])
    arguments = {key: torch.tensor(array) for key, array in inputs.items()} | {"max_new_tokens": LONGEST}
    end = [stop, 2]
    arguments |= {"do_sample": False, "eos_token_id": end, "pad_token_id": 1}
    actual = generate(loaded.model, loaded.variables, inputs, longest=LONGEST, stop=end)
    for reference_side in (model, again):
        wanted = reference_side.generate(**arguments, num_beams=1)[:, 1:].numpy()
        np.testing.assert_array_equal(actual.tokens[:, : wanted.shape[1]], wanted)
    assert (actual.tokens[:, 0] == first).all() and len(set(actual.lengths.tolist())) > 1
    longest = actual.lengths == LONGEST
    assert longest.any() and (last is None or (actual.tokens[longest, -1] == last).all())
    lengths = set()
    arguments |= {"num_beams": 3, "num_return_sequences": 3, "return_dict_in_generate": True, "output_scores": True}
    for length_penalty, early_stopping in SETTINGS[name]:
        settings = {"length_penalty": length_penalty, "early_stopping": early_stopping}
        wanted = again.generate(**arguments, **settings)
        ranked = {"longest": LONGEST, "beams": 3, "returned": 3, "stop": end}
        best = beam_search(loaded.model, loaded.variables, inputs, **ranked, **settings)
        tokens = wanted.sequences[:, 1:].numpy().reshape(3, 3, -1)
        np.testing.assert_array_equal(best.tokens[..., : tokens.shape[-1]], tokens, err_msg=str(settings))
        np.testing.assert_allclose(best.scores.reshape(-1), wanted.sequences_scores.numpy(), rtol=1e-5)
        lengths |= set(best.lengths.reshape(-1).tolist())
    assert len(lengths) > 1, "the texts should end at different times"


# The default of peft for BART scales queries in the place of values.
SCALED_LAYERS = {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}
ADAPTERS = {
    "lora": (tuning.Lora(rank=2, alpha=3.0), lambda: peft.LoraConfig(r=2, lora_alpha=3, task_type="SEQ_2_SEQ_LM")),
    "ia3": (tuning.Ia3(), lambda: peft.IA3Config(task_type="SEQ_2_SEQ_LM", **SCALED_LAYERS)),
}


# A usual warning of peft with transformers 5.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_exchanged_with_peft(name, tmp_path):
    """The layers are those of all attentions, and for IA3 the inner layers too."""
    how, settings = ADAPTERS[name]
    case = CASES["bart-words"]
    torch_model(case).save_pretrained(tmp_path / "base")
    inputs = draw(case)
    arguments = {key: torch.tensor(array) for key, array in inputs.items()}
    kept = inputs["decoder_attention_mask"] > 0

    def base() -> Any:
        return getattr(transformers, case.model).from_pretrained(tmp_path / "base")

    def logits(model: Any) -> np.ndarray:
        return model.eval()(**arguments).logits.detach().numpy()[kept]

    def ours(pretrained: Any) -> np.ndarray:
        run = jax.jit(lambda variables: forward(pretrained.model, variables, inputs)[0]["logits"])
        return np.asarray(run(pretrained.variables))[kept]

    theirs = peft.get_peft_model(base(), settings())
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "theirs")
    before = load_pretrained(tmp_path / "base")
    opened = load_adapter(before, tmp_path / "theirs")
    np.testing.assert_allclose(ours(opened), logits(theirs), rtol=0, atol=TOLERANCE)
    assert not np.allclose(ours(opened), logits(base()), atol=1e-3)
    # The leaves are those that the tuning inserts; and back again.
    inserted = how.insert(before.model, before.variables.params, jax.random.key(0))
    assert flatten(opened.variables.params).keys() == flatten(inserted).keys()
    save_adapter(opened, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
    again = peft.PeftModel.from_pretrained(base(), tmp_path / "ours")
    np.testing.assert_allclose(logits(again), logits(theirs), rtol=0, atol=TOLERANCE)
