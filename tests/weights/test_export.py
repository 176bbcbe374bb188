"""Every exported directory opens in `transformers` without missing tensors, and predicts as in tlx."""

import json

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import tlx
from tlx import models, tasks, tuning
from tlx.cli import main
from tlx.data.collate import collate
from tlx.processors import ImageProcessor, TextProcessor
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, export_pretrained, load_pretrained, save_pretrained
from tlx.weights.expected import expected
from tlx.weights.export import check_export, note
from tlx.weights.fitting import within
from tlx.weights.formats import foreign_kinds
from tlx.weights.formats.bert import BertFormat

TINY = {"width": 12, "depth": 2, "heads": 3, "mlp": 20}
TEXT = {"vocabulary": 24, "positions": 16} | TINY
STACKS = TINY | {"vocabulary": 24}
IMAGE = {"size": 8, "patch": 4} | TINY
DISTANCES = TEXT | {"relative": True, "terms": ("c2p", "p2c")}
ROTATED = {"size": (8, 13), "patch": 4} | TINY | {"width": 24}
BIT = {"stem": 8, "widths": (8, 16), "depths": (1, 2)}
WINDOWS = {"patch": 2, "width": 4, "depths": (2, 1), "heads": (1, 2), "window": 2}
SCALED = {"width_multiplier": 0.1, "widths": (90, 120), "depths": (1, 2), "kernels": (3, 5), "strides": (1, 2)}
SCALED |= {"expansions": (1, 3)}
GROUPED = TEXT | {"key_heads": 1, "head_size": 6}
SOFT = {"shifted": True, "embeddings_scaled": True, "after_norms": True, "tied": True, "score_size": 5}
SOFT |= {"window": 3, "local": (0,)}
CONFIGS = {
    "bert": models.Bert(**TEXT),
    "bert-relu": models.Bert(activation="relu", types=3, epsilon=1e-6, **TEXT),
    "roberta": models.Bert(family="roberta", types=1, pad=1, **TEXT),
    "xlm-roberta": models.Bert(family="roberta", types=1, pad=1, **TEXT),
    "camembert": models.Bert(family="roberta", types=1, pad=1, **TEXT),
    "distilbert": models.Bert(family="distilbert", types=0, **TEXT),
    "electra": models.Bert(family="electra", embedding=8, **TEXT),
    "electra-wide": models.Bert(family="electra", activation="gelu_new", **TEXT),
    "mpnet": models.MPNet(activation="silu", **TEXT),
    "albert": models.Albert(embedding=8, types=3, groups=2, layers=2, **TEXT),
    "modernbert": models.ModernBert(pad=0, **TEXT),
    "modernbert-mean": models.ModernBert(pad=0, pooling="mean", every=2, window=6, norm_bias=True, **TEXT),
    "deberta-v2": models.DebertaV2(kernel=3, embedding=8, furthest=5, types=2, **DISTANCES),
    "deberta-v3": models.DebertaV2(buckets=4, normed=True, positions_in_input=False, shared=True, **DISTANCES),
    "t5": models.T5(decoder_depth=1, size=5, buckets=6, **STACKS),
    "t5-gated": models.T5(gated=True, activation="gelu_new", tied=False, **STACKS),
    "mt5": models.T5(family="mt5", tied=False, gated=True, activation="silu", **STACKS),
    "bart": models.Bart(decoder_depth=1, decoder_heads=2, decoder_mlp=9, embeddings_scaled=True, **TEXT),
    "mbart": models.Bart(family="mbart", decoder_depth=1, decoder_heads=2, decoder_mlp=9, start=None, **TEXT),
    "gpt2": models.Gpt2(pad=1, activation="silu", **TEXT),
    "llama": models.Llama(pad=0, base=30.0, scaling="linear", factor=2.0, mlp_bias=True, **GROUPED),
    "mistral": models.Llama(family="mistral", pad=0, window=3, local=(0, 1), **GROUPED),
    "qwen2": models.Llama(family="qwen2", pad=1, query_bias=True, window=3, local=(1,), **GROUPED),
    "qwen3": models.Llama(family="qwen3", pad=0, head_norm=True, scaling="yarn", factor=4.0, original=8, **GROUPED),
    "gemma": models.Llama(family="gemma", pad=0, shifted=True, embeddings_scaled=True, tied=True, **GROUPED),
    "gemma2": models.Llama(family="gemma2", pad=0, attention_cap=3.0, logit_cap=2.0, **SOFT, **GROUPED),
    "gemma3_text": models.Llama(family="gemma3_text", pad=0, head_norm=True, local_base=9.0, **SOFT, **GROUPED),
    "vit": models.Vit(channels=1, **IMAGE),
    "vit-wide": models.Vit(qkv_bias=False, activation="gelu_pytorch_tanh", **(IMAGE | {"size": (8, 12)})),
    "deit": models.Vit(family="deit", **IMAGE),
    "deit-teacher": models.Vit(family="deit", distilled=True, **IMAGE),
    "dinov2": models.Vit(family="dinov2", layer_scale=1.0, **(IMAGE | {"mlp": 24})),
    "dinov2-gated": models.Vit(family="dinov2", layer_scale=0.5, gated=True, **(IMAGE | {"mlp": 24})),
    "dinov2_with_registers": models.Vit(
        family="dinov2_with_registers", layer_scale=1.0, registers=3, **(IMAGE | {"mlp": 24})
    ),
    "dinov3_vit": models.Vit(family="dinov3_vit", layer_scale=0.5, key_bias=False, registers=2, **ROTATED),
    "dinov3_vit-gated": models.Vit(family="dinov3_vit", layer_scale=0.5, qkv_bias=False, gated=True, **ROTATED),
    "siglip": models.Vit(family="siglip", channels=1, **IMAGE),
    "siglip-tanh": models.Vit(family="siglip", pooler=False, activation="gelu_pytorch_tanh", **IMAGE),
    "resnet": models.ResNet(size=12, channels=1, stem=6, widths=(8, 12), depths=(1, 2)),
    "resnet-basic": models.ResNet(size=(9, 14), stem=6, widths=(6, 8), depths=(2, 1), bottleneck=False),
    "convnext": models.ConvNeXt(size=(13, 10), patch=3, channels=1, widths=(4, 6), depths=(1, 2)),
    "convnextv2": models.ConvNeXt(size=9, layer_scale=None, response_norm=True, widths=(4, 6), depths=(2, 1)),
    "bit": models.BiT(size=(13, 10), channels=1, groups=4, **BIT),
    "bit-after": models.BiT(size=9, preactivation=False, padding="even", padded_pool=False, groups=2, **BIT),
    "swin": models.Swin(size=(13, 10), channels=1, mlp_ratio=1.5, **WINDOWS),
    "swinv2": models.Swin(family="swinv2", size=10, pretrained_windows=(4, 0), qkv_bias=False, **WINDOWS),
    "efficientnet": models.EfficientNet(size=10, channels=1, **SCALED),
    "efficientnet-even": models.EfficientNet(size=(21, 14), padding="even", odd=(1,), momentum=0.3, **SCALED),
    "mobilenet_v2": models.MobileNetV2(size=(33, 20), channels=1, width_multiplier=0.1, expansion=1.5),
    "mobilenet_v2-both": models.MobileNetV2(
        width_multiplier=0.1, expansion=1.5, size=14, padding="both", expand_first=True, scaled_top=True
    ),
}
# The networks with the slowest compilation, whose heads are those of the others.
LONG = ("efficientnet", "mobilenet_v2")
TASKS = {
    "classes": tasks.Classification(classes=3, names=("low", "middle", "high")),
    "two": tasks.Classification(classes=2, names=("negative", "positive")),
    "number": tasks.Regression(),
    "numbers": tasks.Regression(outputs=3),
    "backbone": None,
}
# Architectures with a head in the form of another's: one task is enough. `transformers` has no classifier for DINOv3;
# those of mT5 and mBART are those of T5 and BART.
LINEAR = (
    "deberta",
    "mpnet",
    "modernbert",
    "albert",
    "t5",
    "bart",
    "bit",
    "convnext",
    "convnextv2",
    "swin",
    "swinv2",
    "siglip",
    "dinov2_with_registers",
    "gpt2",
    "llama",
)
# The same network as that of "llama", with other fields.
RELATIVES = ("mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
BARE = ("dinov3_vit", "mt5", "mbart")
QUICK = [(name, "classes") for name in ("bert", "roberta", "distilbert", "vit", "dinov2")] + [("electra", "number")]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "##s", "good", "bad", "café", "!"]
SENTENCES = ["a good film!", "Bad films", "", "a bad bad bad bad bad bad bad bad bad bad bad bad bad bad bad bad film"]


def tasks_of(name):
    """Return the names of the tasks for which a model is exported."""
    family = name.split("-")[0]
    if family in RELATIVES:
        return ("classes",)
    return ("backbone",) if family in BARE else ("classes", "backbone") if family in LINEAR else TASKS


@pytest.fixture
def quick():
    """Most of the time is compilation, so the compiler optimises little."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


# The classes of tokenizers with a list of pieces.
PIECES = {
    **dict.fromkeys(("xlm-roberta", "mbart"), "XLMRobertaTokenizer"),
    "camembert": "CamembertTokenizer",
    "albert": "AlbertTokenizer",
    "deberta": "DebertaV2Tokenizer",
    **dict.fromkeys(("t5", "mt5"), "T5Tokenizer"),
}
# Those with pieces of bytes.
BYTES = {**dict.fromkeys(("roberta", "bart"), "RobertaTokenizer"), "gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer"}


def tokenizer(kind, folder):
    """A directory written by the class of `transformers` for the family."""
    import transformers

    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if kind in PIECES:
        first = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"] if kind in ("albert", "deberta") else names
        first = ["<pad>", "</s>", "<unk>"] if kind in ("t5", "mt5") else first
        pieces = [*first, "▁a", "▁good", "▁film", "▁bad", "s", "▁", "!", "b", "f"]
        vocabulary = [(piece, -float(n)) for n, piece in enumerate(pieces)]
        built = getattr(transformers, PIECES[kind])(vocab=vocabulary)
    elif kind == "mpnet":
        built = transformers.MPNetTokenizer(vocab={word: n for n, word in enumerate([*names[:4], "<mask>", *WORDS])})
    elif kind in BYTES:
        pieces = [*names, "a", "g", "o", "d", "f", "i", "l", "m", "Ġ", "!", "go", "od", "good", "fi", "lm", "film", "s"]
        merges = [("g", "o"), ("o", "d"), ("go", "od"), ("f", "i"), ("l", "m"), ("fi", "lm")]
        built = getattr(transformers, BYTES[kind])(
            vocab={piece: n for n, piece in enumerate(pieces)}, merges=merges, pad_token="<pad>"
        )
    else:
        value = transformers.DistilBertTokenizer if kind == "distilbert" else transformers.BertTokenizer
        built = value(vocab={word: n for n, word in enumerate(WORDS)})
    built.save_pretrained(folder)
    return TextProcessor.load(folder, 10)


def random_model(name, task, processor=None, seed=0) -> Pretrained:
    """A model of random numbers, all different from their initial values."""
    config, kind = CONFIGS[name], name.split("-")[0] if name != "xlm-roberta" else name
    model = models.build(config, None if task is None else task.outputs)
    rng = np.random.default_rng(seed)
    params, stats = models.initialise(model, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(np.float32), params)
    # Variances as large as those of the convolutions, so that the numbers do not grow from layer to layer.
    stats = jax.tree.map(lambda leaf: rng.uniform(2, 9, leaf.shape).astype(np.float32), stats)
    document = {"model_type": kind} if kind in foreign_kinds() else {}
    return within(Pretrained(model, Variables(params, stats), processor, Manifest("random", document, ()), task))


def pixels(config):
    height, width, _ = models.image_shape(config)
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height + n, width + 3, 3), dtype=np.uint8) for n in range(2)]


@pytest.mark.parity
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("name", "task"),
    [
        (name, task) if (name, task) in QUICK else pytest.param(name, task, marks=pytest.mark.slow)
        for name in CONFIGS
        for task in tasks_of(name)
    ],
)
def test_transformers_opens_every_export_and_predicts_as_tlx_does(tmp_path, name, task):
    import torch
    import transformers

    config, requested = CONFIGS[name], TASKS[task]
    text = "input_ids" in config.input_fields()
    if text:
        processor = tokenizer(name if name == "xlm-roberta" else name.split("-")[0], tmp_path / "tokenizer")
    else:
        height, width, channels = models.image_shape(config)
        processor = ImageProcessor(size=(height, width), channels=channels, mean=(0.0,), std=(0.3,), resample="bicubic")
    pretrained = random_model(name, requested, processor)
    folder = export_pretrained(pretrained, tmp_path / "exported")
    auto = transformers.AutoModel
    if requested is not None:
        auto = transformers.AutoModelForSequenceClassification if text else transformers.AutoModelForImageClassification
    if name == "deit-teacher" and requested is not None:
        auto = transformers.DeiTForImageClassificationWithTeacher
    # A decoder sees no token of a text without tokens. Only this implementation then computes a mean, as tlx does.
    plain = {"attn_implementation": "eager"} if isinstance(config, models.Gpt2 | models.Llama) else {}
    reference_side, recorded = auto.from_pretrained(folder, output_loading_info=True, **plain)
    assert not any(recorded[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), (
        recorded
    )
    document = json.loads((folder / "config.json").read_text())
    assert type(reference_side).__name__ == document["architectures"][0]
    if requested is not None:
        wanted = requested.names or [f"LABEL_{n}" for n in range(requested.outputs)]
        assert reference_side.config.id2label == dict(enumerate(wanted))
        kind = "regression" if isinstance(requested, tasks.Regression) else "single_label_classification"
        assert reference_side.config.problem_type == kind
    reopened = load_pretrained(folder)
    if text:
        reader = transformers.AutoTokenizer.from_pretrained(folder)
        arguments = reader(SENTENCES, padding=True, truncation=True, return_tensors="pt")
        rows = [reopened.processor({"text": sentence}) for sentence in SENTENCES]
        inputs = collate(rows, reopened.processor.fields)
        for key, array in arguments.items():
            np.testing.assert_array_equal(inputs[key], array.numpy())
        assert inputs["input_ids"].shape[1] == 10
        if "decoder_input_ids" in config.embedding_rows() and requested is None:
            arguments["decoder_input_ids"] = arguments["input_ids"].flip(1)
            inputs["decoder_input_ids"] = arguments["decoder_input_ids"].numpy()
    else:
        reader = transformers.AutoImageProcessor.from_pretrained(folder)
        images = pixels(config)
        inputs = {"image": np.stack([reopened.processor({"image": image})["image"] for image in images])}
        colours = images if config.channels == 3 else [grey(image) for image in images]
        arguments = reader(colours, return_tensors="pt")
        tlx_side = arguments["pixel_values"].numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(inputs["image"], tlx_side, atol=1e-5)
    with torch.no_grad():
        out = reference_side.eval()(**arguments)
    forward = jax.jit(lambda variables, inputs: tlx.forward(pretrained.model, variables, inputs)[0])
    taps = forward(pretrained.variables, inputs)
    if requested is not None:
        np.testing.assert_allclose(taps["logits"], out.logits.numpy(), atol=1e-4, rtol=1e-5)
        return
    last = out.last_hidden_state.numpy()
    real = inputs.get("attention_mask", np.ones(taps["hidden"].shape[:2])) > 0
    last = last.transpose(0, 2, 3, 1) if last.ndim == 4 else last.reshape(taps["hidden"].shape)
    np.testing.assert_allclose(np.asarray(taps["hidden"])[real], last[real], atol=1e-4, rtol=1e-5)
    if "pool" in pretrained.variables.params:
        np.testing.assert_allclose(taps["pooled"], out.pooler_output.numpy(), atol=1e-4, rtol=1e-5)


def grey(image):
    from PIL import Image

    return Image.fromarray(image).convert("L")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name in CONFIGS for task in tasks_of(name) if task in ("classes", "backbone")]
)
def test_the_expected_tensors_are_those_of_the_class(tmp_path, name, task):
    """The list is that of `transformers`: what a model of that class saves."""
    import transformers

    pretrained = random_model(name, TASKS[task])
    save_pretrained(pretrained, tmp_path / "ours")
    document = json.loads((tmp_path / "ours" / "config.json").read_text())
    value = getattr(transformers, document["architectures"][0])
    value(value.config_class.from_dict(document)).save_pretrained(tmp_path / "theirs")
    reference_side = {key: tensor.shape for key, tensor in load_file(tmp_path / "theirs" / "model.safetensors").items()}
    assert expected(document) == reference_side


def changed(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bert.pooler.dense.weight"), "bert.pooler.dense.weight is missing"),
        (lambda t: t.update({"bert.extra": np.ones(2, np.float32)}), "bert.extra (2,)"),
        (lambda t: t.update({"classifier.bias": np.ones(4, np.float32)}), "classifier.bias is (4,), expected (3,)"),
    ],
)
def test_a_directory_without_one_tensor_is_not_a_valid_export(tmp_path, change, message):
    pretrained = random_model("bert", TASKS["classes"])
    save_pretrained(pretrained, tmp_path)
    changed(tmp_path, change)
    with pytest.raises(ValueError, match="BertForSequenceClassification") as error:
        check_export(pretrained, tmp_path)
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_a_directory_with_other_numbers_is_not_a_valid_export(tmp_path):
    pretrained = random_model("bert", TASKS["classes"])
    save_pretrained(pretrained, tmp_path)
    changed(tmp_path, lambda tensors: tensors.update({"classifier.bias": np.ones(3, np.float32) * 7}))
    with pytest.raises(ValueError, match="other outputs"):
        check_export(pretrained, tmp_path)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "mpnet", "albert"])
def test_a_head_on_the_mean_is_not_exported_and_no_class_of_transformers_opens_its_directory(tmp_path, name):
    import transformers

    config = tlx.config.replace(CONFIGS[name], pooling="mean")
    model = models.build(config, 3)
    variables = models.initialise(model, jax.random.key(0))
    document = {"model_type": "camembert"} if name == "roberta" else {}
    pretrained = Pretrained(model, variables, None, Manifest("random", document, ()), TASKS["classes"])
    with pytest.raises(ValueError, match="mean over tokens") as error:
        export_pretrained(pretrained, tmp_path / "exported")
    assert 'pooling="first"' in str(error.value) and repr(name) in str(error.value)
    assert not list(tmp_path.iterdir())
    # The directory of the run, which tlx opens.
    save_pretrained(pretrained, tmp_path / "model")
    result = CliRunner().invoke(main, ["export", str(tmp_path), str(tmp_path / "exported")])
    assert result.exit_code == 2 and result.stderr == f"tlx: {error.value}\n" and not (tmp_path / "exported").exists()
    read = load_pretrained(tmp_path / "model")
    assert read.model.config == config and read.task == TASKS["classes"]
    jax.tree.map(np.testing.assert_array_equal, read.variables.params, variables.params)
    stated = json.loads((tmp_path / "model" / "config.json").read_text())
    assert not any(hasattr(transformers, value) for value in stated["architectures"])
    with pytest.raises(ValueError, match="tlx"):
        transformers.AutoConfig.from_pretrained(tmp_path / "model")


def test_a_head_on_the_mean_keeps_its_prompt_and_may_be_changed_to_the_head_of_the_family(tmp_path):
    config = tlx.config.replace(CONFIGS["bert"], pooling="mean")
    model = models.build(config, 3)
    variables = models.initialise(model, jax.random.key(0))
    params = tuning.Prompt(tokens=2).insert(model, variables.params, jax.random.key(1))
    grown = Pretrained(model, Variables(params, {}), None, Manifest("random", {}, ()), TASKS["classes"])
    read = load_pretrained(save_pretrained(grown, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, read.variables.params, params)
    first = load_pretrained(tmp_path, TASKS["classes"], pooling="first")
    assert "pool" in first.variables.params and first.model.config.pooling == "first"


def test_a_directory_with_a_head_on_the_mean_of_an_earlier_version_still_opens(tmp_path):
    """It named the backbone without the head beside the tensors of the head."""
    config = tlx.config.replace(CONFIGS["bert"], pooling="mean")
    model = models.build(config, 3)
    document = BertFormat().write(config, models.Pooled(3), {}) | {
        "id2label": {"0": "low", "1": "middle", "2": "high"},
        "problem_type": "single_label_classification",
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    variables = models.initialise(model, jax.random.key(0))
    leaves = tlx.trees.flatten(variables.params)
    names = BertFormat().names(config, models.Pooled(3))
    save_file(
        {name.foreign: models.names.outward(name, np.asarray(leaves[name.ours])) for name in names},
        tmp_path / "model.safetensors",
    )
    read = load_pretrained(tmp_path)
    assert read.model.config == config and read.task == TASKS["classes"]
    jax.tree.map(np.testing.assert_array_equal, read.variables.params, variables.params)


@pytest.mark.parametrize("value", [tuning.Prompt(tokens=2), tuning.Adapter(width=3), tuning.SideHead()])
def test_a_model_with_an_adapter_that_cannot_be_merged_is_not_exported(tmp_path, value):
    pretrained = random_model("bert", TASKS["classes"])
    params = value.insert(pretrained.model, pretrained.variables.params, jax.random.key(0))
    grown = pretrained._replace(variables=Variables(params, {}))
    with pytest.raises(ValueError, match="cannot be merged into plain weights"):
        export_pretrained(grown, tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_class_in_transformers_is_exported_for_tlx_and_says_so(tmp_path):
    model = models.build(models.Mlp(inputs=(4, 4, 1), widths=(5,)), 3)
    variables = models.initialise(model, jax.random.key(0))
    processor = ImageProcessor(size=(4, 4), channels=1)
    pretrained = Pretrained(model, variables, processor, Manifest("random", {}, ()), TASKS["classes"])
    export_pretrained(pretrained, tmp_path / "exported")
    assert note(pretrained) == "transformers has no class for Mlp; only tlx can open this directory"
    assert note(random_model("bert", TASKS["classes"])) is None
    with pytest.raises(FileExistsError, match="not empty"):
        export_pretrained(pretrained, tmp_path / "exported")


def test_fields_of_a_config_that_was_read_stay_true_when_it_is_written(tmp_path):
    save_pretrained(random_model("bert", TASKS["classes"]), tmp_path / "one")
    file = tmp_path / "one" / "config.json"
    before = {"quantization_config": {"quant_method": "x"}, "auto_map": {"AutoModel": "code.Model"}, "num_labels": 9}
    file.write_text(json.dumps(json.loads(file.read_text()) | before | {"torch_dtype": "float16"}))
    export_pretrained(load_pretrained(tmp_path / "one"), tmp_path / "two")
    after = json.loads((tmp_path / "two" / "config.json").read_text())
    assert not after.keys() & {*before, "torch_dtype"} and after["dtype"] == "float32"
