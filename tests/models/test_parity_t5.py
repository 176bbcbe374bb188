"""T5 compared with `transformers` on torch: hidden states of both stacks, logits, loss, and every gradient.

The limits are those of `test_parity.py`. Hidden states are compared where a token is not padding.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
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
from tlx import tuning
from tlx.models import PerToken, Vocabulary, build, forward
from tlx.trees import flatten, nest
from tlx.types import Variables
from tlx.weights import export_pretrained, load_adapter, load_pretrained, save_adapter
from tlx.weights.formats import foreign

pytestmark = pytest.mark.parity

# Few buckets, so that distances share them; the heads are not as wide as the hidden states.
SIZES = {
    "vocab_size": 23,
    "d_model": 15,
    "d_kv": 4,
    "d_ff": 13,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 5,
    "decoder_start_token_id": 0,
}
GATED = SIZES | {"feed_forward_proj": "gated-gelu"}
UNTIED = {"tie_word_embeddings": False}

CASES = {
    "t5": Case("T5Model", SIZES),
    "t5-words": Case("T5ForConditionalGeneration", SIZES | {"feed_forward_proj": "gelu"}),
    "t5-gated": Case("T5ForConditionalGeneration", GATED | UNTIED),
    "t5-silu": Case("T5ForConditionalGeneration", SIZES | {"feed_forward_proj": "gated-silu", "num_decoder_layers": 4}),
    "t5-encoder": Case("T5EncoderModel", GATED),
    "t5-head": Case("T5ForSequenceClassification", SIZES),
    "t5-tokens": Case("T5ForTokenClassification", GATED),
    "mt5-words": Case("MT5ForConditionalGeneration", GATED | {"d_kv": 6}),
}


def torch_model(case: Case) -> Any:
    """Return the model of `reference`; T5 1.1 and mT5 have a separate last layer, as their files have.

    No norm limits the hidden states between the blocks, so smaller parameters keep them near 1.
    """
    model = reference(case)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    if case.model == "MT5ForConditionalGeneration" or not case.fields.get("tie_word_embeddings", True):
        model.lm_head.weight = torch.nn.Parameter(0.5 * torch.randn_like(model.lm_head.weight))
    return model


def draw(case: Case) -> dict[str, np.ndarray]:
    """Inputs with padding on both sides in both texts; each text ends in the end word 1."""
    rng = np.random.default_rng(0)
    mask = np.array([[1] * 9, [1] * 5 + [0] * 4, [0] * 3 + [1] * 6])
    words = rng.integers(2, 23, mask.shape)
    words[[0, 1, 2], [8, 4, 8]] = 1
    inputs = {"input_ids": words * mask, "attention_mask": mask}
    if head_of(case) is None or isinstance(head_of(case), Vocabulary):
        targets = np.array([[1] * 7, [0] * 2 + [1] * 5, [1] * 3 + [0] * 4])
        inputs |= {"decoder_input_ids": rng.integers(0, 23, targets.shape), "decoder_attention_mask": targets}
    if case.model.endswith("EncoderModel"):
        return {name: array for name, array in inputs.items() if not name.startswith("decoder")}
    return inputs


def labels_of(case: Case, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return a label for each output; -100 where a token is padding and has no loss."""
    rng, head = np.random.default_rng(1), head_of(case)
    if isinstance(head, PerToken | Vocabulary):
        mask = inputs["attention_mask" if isinstance(head, PerToken) else "decoder_attention_mask"]
        classes = 23 if isinstance(head, Vocabulary) else CLASSES
        return np.where(mask == 1, rng.integers(0, classes, mask.shape), -100)
    return rng.integers(0, CLASSES, len(inputs["input_ids"]))


def loss_of(taps: Any, labels: np.ndarray, mask: np.ndarray) -> jax.Array:
    """Return the loss of `transformers` for the logits; without a head, the mean over the tokens of the states."""
    if "logits" not in taps:
        return (taps["hidden"] * mask[..., None].astype(np.float32)).mean()
    logits = taps["logits"].reshape(-1, taps["logits"].shape[-1])
    kept = (labels.reshape(-1) >= 0).astype(np.float32)
    logs = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), np.maximum(labels.reshape(-1), 0)]
    return -(logs * kept).sum() / kept.sum()


def record_states(model: Any, states: dict[str, Any]) -> None:
    """Record the hidden states of torch by the tap of tlx; `transformers` itself does not return the last block's."""
    stems = {"encoder": ("stem", "encoder_norm"), "decoder": ("decoder_stem", "norm")}

    def recorded(path: str) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            states[path] = output[0] if isinstance(output, tuple) else output

        return hook

    for name, stack in model.named_modules():
        if (kind := name.rpartition(".")[2]) in stems:
            first, last = stems[kind]
            stack.embed_tokens.register_forward_hook(recorded(first))
            stack.final_layer_norm.register_forward_hook(recorded(last))
            for number, block in enumerate(stack.block):
                block.register_forward_hook(recorded(f"{kind}/{number:02d}"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CASES)
def test_random_models_agree(name, tmp_path):
    case, model = CASES[name], torch_model(CASES[name])
    inputs, head = draw(case), head_of(case)
    labels = labels_of(case, inputs)
    parameters = dict(model.named_parameters())
    tensors = stored(model, {key: p.detach() for key, p in parameters.items()}, tmp_path / "values")
    document = json.loads((tmp_path / "values" / "config.json").read_text())
    module = foreign(document["model_type"])
    config = module.read(document)
    built = build(config, head)
    leaves = tlx_params(module, config, head, tensors)
    assert {path: leaf.shape for path, leaf in leaves.items()} == {
        path: param.shape for path, param in flatten(built.params).items()
    }
    decoder = not case.model.endswith(("EncoderModel", "TokenClassification"))
    masks = {False: inputs["attention_mask"]}
    # Without a mask all words of the decoder are read.
    masks[True] = inputs.get("decoder_attention_mask", np.ones_like(masks[False]))
    last = masks[decoder]

    arguments = {key: torch.tensor(array) for key, array in inputs.items()}
    arguments |= {} if head is None else {"labels": torch.tensor(labels)}
    wanted: dict[str, Any] = {}
    record_states(model, wanted)
    result = model(**arguments)
    hidden = result.get("last_hidden_state")
    loss = (hidden * torch.tensor(last)[..., None]).mean() if head is None else result.loss
    loss.backward()

    def ours(params: Any) -> Any:
        taps, _ = forward(built, Variables(params, {}), inputs)
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
    grads = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in parameters.items()}
    theirs = tlx_params(module, config, head, stored(model, grads, tmp_path / "gradients"))
    differences |= gradient_differences({path: np.asarray(g) for path, g in flatten(gradient).items()}, theirs)
    assert max(differences.values()) <= TOLERANCE, differences


# What tlx writes, and `transformers` 5 replaces: it ties all embeddings, and keeps the meaning in another field.
REPLACED = {"tie_word_embeddings"}


@pytest.mark.parametrize("name", CASES)
def test_a_config_is_read_as_it_was_written(name):
    case = CASES[name]
    config_class = getattr(transformers, case.model).config_class
    document = config_class(**case.fields).to_dict() | {"architectures": [case.model]}
    if case.model.endswith("EncoderModel"):
        document["is_encoder_decoder"] = False
    module = foreign(document["model_type"])
    config, head = module.read(document), head_of(case)
    assert module.head_in(document) == (None if head is None else type(head))
    written = module.write(config, head, {})
    assert module.read(written) == config
    assert written["architectures"] == [case.model]
    again = config_class.from_dict(written)
    assert holds(again.to_dict(), {key: value for key, value in written.items() if key not in REPLACED})
    if config.family == "t5":
        assert config.tied == again.scale_decoder_outputs == case.fields.get("tie_word_embeddings", True)
    assert config.size * config.heads != config.width


@pytest.mark.parametrize("name", ["t5-words", "t5-gated", "t5-encoder", "t5-head", "mt5-words"])
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


ADAPTERS = {
    "lora": (tuning.Lora(rank=2, alpha=3.0), lambda: peft.LoraConfig(r=2, lora_alpha=3, task_type="SEQ_2_SEQ_LM")),
    "ia3": (tuning.Ia3(), lambda: peft.IA3Config(task_type="SEQ_2_SEQ_LM")),
}


# A usual warning of peft with transformers 5.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_exchanged_with_peft(name, tmp_path):
    """The default layers of both libraries are the same: those of all attentions, and for IA3 the inner layers too."""
    how, settings = ADAPTERS[name]
    case = CASES["t5-words"]
    torch_model(case).save_pretrained(tmp_path / "base")
    inputs = draw(case)
    arguments = {key: torch.tensor(array) for key, array in inputs.items()}
    kept = inputs["decoder_attention_mask"] > 0

    def base() -> Any:
        return transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "base")

    def logits(model: Any) -> np.ndarray:
        return model.eval()(**arguments).logits.detach().numpy()[kept]

    def ours(pretrained: Any) -> np.ndarray:
        run = jax.jit(lambda params: forward(pretrained.model, Variables(params, {}), inputs)[0]["logits"])
        return np.asarray(run(pretrained.variables.params))[kept]

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
