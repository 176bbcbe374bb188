"""Exported programs: the loader needs only jax, and its outputs are those of the run."""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest

import tlx
from tlx import models, tasks, tuning
from tlx.data.collate import collate
from tlx.export import export_run
from tlx.export import load as loader
from tlx.export.inputs import prepare
from tlx.export.program import check_program, example_inputs, inference, leaves_of, write_program
from tlx.models import Architecture, Mlp
from tlx.processors import ImageProcessor, SoundProcessor, TextProcessor
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, save_pretrained
from tlx.weights.fitting import within

TEXT = {"vocabulary": 14, "width": 8, "depth": 1, "heads": 2, "mlp": 12, "positions": 12}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "##s", "good", "bad", "text", "first", "second"]


def pretrained_of(config, task=None, processor=None, insert=None):
    """A model of random numbers."""
    model = models.build(config, None if task is None else task.head())
    params, stats = models.initialise(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), params)
    params = params if insert is None else insert.insert(model, params, jax.random.key(1))
    return within(Pretrained(model, Variables(params, stats), processor, Manifest("random", {}, ()), task))


def tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import BertProcessing

    tokens = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, "[UNK]"))
    tokens.pre_tokenizer, tokens.post_processor = BertPreTokenizer(), BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokens.add_special_tokens(WORDS[:5])
    return TextProcessor(tokens, 9)


def code_of(card):
    """The code block of a model card that shows how to use the model."""
    return re.search(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)[1]


def printed(output):
    """The answers that the code of a card prints, one dict for each example."""
    return [ast.literal_eval(line) for line in output.splitlines()]


def test_the_loader_needs_only_jax_and_answers_with_the_logits_of_the_run(run, alone, tmp_path):
    exported = export_run(run.folder, tmp_path / "program", to="stablehlo")
    assert exported.notes == ()
    scores = np.load(run.folder / "predictions" / "test.npz")
    splits = tlx.training.prepare.open_data(run.recipe)
    processor = tlx.load_pretrained(run.folder).processor
    rows = [processor(splits.test[n]) for n in range(5)]
    np.savez(tmp_path / "program" / "inputs.npz", **collate(rows, processor.fields))
    code = """
import importlib.util, numpy as np
assert not any(importlib.util.find_spec(name) for name in ("tlx", "flax", "safetensors", "transformers"))
from load import load
np.save("logits.npy", load()(**np.load("inputs.npz"))["logits"])
"""
    alone(code, tmp_path / "program")
    logits = np.load(tmp_path / "program" / "logits.npy")
    np.testing.assert_allclose(logits, scores["logits"][np.argsort(scores["indices"])][:5], atol=1e-5, rtol=0)


def test_the_loader_is_short_and_imports_jax_and_numpy_only():
    tree = ast.parse(Path(loader.__file__).read_text(encoding="utf-8"))
    imported = {
        name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    assert imported == {"json", "jax", "numpy"}
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    assert function.end_lineno - function.lineno < 16


@pytest.mark.slow
def test_the_code_in_the_card_of_a_text_model_runs_without_tlx(alone, tmp_path):
    task = tasks.Classification(classes=2, names=("bad | 'worse'", "good"))
    pretrained = pretrained_of(models.Bert(**TEXT), task, tokenizer())
    save_pretrained(pretrained, tmp_path / "model")
    export_run(tmp_path / "model", tmp_path / "program", to="stablehlo")
    code = code_of((tmp_path / "program" / "README.md").read_text())
    answers = printed(alone(code, tmp_path / "program", "tokenizers"))
    expected = tlx.predict.predict(tmp_path / "model", ["the first text", "a second text"])
    assert answers == [pytest.approx(answer, abs=1e-4) for answer in expected]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_code_in_the_card_of_an_image_model_makes_the_pixels_of_training(tmp_path, channels, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, shape in (("first.png", (9, 12, 3)), ("second.png", (11, 7, 4))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(tmp_path / name)
    processors = [
        ImageProcessor(size=(6, 8), channels=channels, mean=(0.2,) * channels, std=(0.3,), resample="bicubic"),
        ImageProcessor(size=7, crop=(6, 6), channels=channels),
        ImageProcessor(size=None, crop=(6, 8), channels=channels),
    ]
    monkeypatch.chdir(tmp_path)
    for n, processor in enumerate(processors):
        names = {"np": np}
        exec("\n".join(prepare(processor, tmp_path).lines), names)
        for row, file in zip(names["inputs"]["image"], ("first.png", "second.png"), strict=True):
            np.testing.assert_array_equal(row, processor(processor.read(file))["image"], err_msg=f"{n} {file}")


@dataclass(frozen=True, kw_only=True)
class Bright(ImageProcessor):
    """A processor of a user, which changes the pixels."""

    def __call__(self, example):
        return {"image": super().__call__(example)["image"] + 1}


def test_only_tlx_makes_the_inputs_of_a_processor_of_another_class(tmp_path):
    for processor in (Bright(size=(4, 4)), SoundProcessor(size=(4, 4))):
        preparation = prepare(processor, tmp_path)
        assert preparation.lines == () and type(processor).__name__ in preparation.words
        assert preparation.fields == processor.fields


MODELS = {
    "bert": (models.Bert(**TEXT), tasks.Classification(classes=3)),
    "mean": (models.Bert(**TEXT, pooling="mean"), tasks.Classification(classes=3)),
    "tokens": (models.Bert(family="roberta", pad=1, **TEXT), tasks.TokenClassification(names=("O", "B"))),
    "backbone": (models.Bert(family="distilbert", types=0, **TEXT), None),
    "vit": (models.Vit(size=4, patch=2, width=8, depth=1, heads=2, mlp=12), tasks.Regression()),
    "cnn": (models.Cnn(size=8, channels=1, widths=(4,), dense=6), tasks.MultiLabel(names=("a", "b"))),
}


@pytest.mark.parametrize(
    "name", [name if name in ("bert", "cnn") else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_a_program_takes_any_number_of_examples_and_tokens_and_has_three_platforms(tmp_path, name):
    pretrained = pretrained_of(*MODELS[name])
    written = write_program(pretrained, tmp_path)
    assert written.notes == () and written.about["platforms"] == ["cpu", "cuda", "tpu"]
    assert {shape["shape"][0] for shape in (written.about["inputs"] | written.about["outputs"]).values()} == {"batch"}
    # `write_program` itself compares a batch of other sizes.
    inputs = example_inputs(pretrained, written.preparation.fields, written.sizes._replace(batch=4, length=10))
    expected = jax.jit(inference(pretrained.model))(leaves_of(pretrained), inputs)
    outputs = loader.load(tmp_path)(**inputs)
    assert outputs.keys() == expected.keys() == written.about["outputs"].keys()
    for key, array in expected.items():
        np.testing.assert_allclose(outputs[key], array, atol=1e-5, rtol=0)
    if name == "bert":
        too_long = example_inputs(pretrained, written.preparation.fields, written.sizes._replace(batch=1, length=13))
        with pytest.raises(ValueError, match="shape"):
            loader.load(tmp_path)(**too_long)


def test_an_adapter_that_is_not_merged_is_in_the_program(tmp_path):
    task = tasks.Classification(classes=2, names=("bad", "good"))
    adapted = pretrained_of(models.Bert(**TEXT), task, tokenizer(), tuning.Prompt(tokens=2))
    save_pretrained(adapted, tmp_path / "model")
    exported = export_run(tmp_path / "model", tmp_path / "program", to="stablehlo")
    assert any("adapter" in note and "stem/prompt/tokens" in note for note in exported.notes)
    inputs = collate([adapted.processor({"text": "a good film"})], adapted.processor.fields)
    expected = jax.jit(inference(adapted.model))(leaves_of(adapted), inputs)["logits"]
    np.testing.assert_allclose(loader.load(tmp_path / "program")(**inputs)["logits"], expected, atol=1e-5)
    with pytest.raises(ValueError, match="--to stablehlo"):
        export_run(tmp_path / "model", tmp_path / "exported")


@dataclass(frozen=True, kw_only=True)
class Counting(Mlp):
    """A network that must know the number of examples."""

    def build(self, head):
        model = super().build(head)
        first, *rest = model.stages

        def apply(params, stats, carry, context):
            count = len(carry[self.input])
            return first.apply(params, stats, carry | {self.input: carry[self.input] * float(count > 0)}, context)

        return model._replace(stages=(first._replace(apply=apply), *rest))


def test_a_model_that_must_know_the_number_of_examples_takes_one_at_a_time_and_says_so(tmp_path):
    pretrained = pretrained_of(Counting(inputs=(2, 2, 1), widths=(3,)), tasks.Classification(classes=2))
    written = write_program(pretrained, tmp_path)
    (note,) = written.notes
    assert "1 example" in note and "interpreted as an integer" in note
    assert written.sizes.batch == 1 and written.about["inputs"]["image"]["shape"] == [1, 2, 2, 1]


def cpu_only(x):
    """Return `x` by an operation that JAX lowers for processors only."""
    from jax.extend.core import Primitive
    from jax.interpreters import mlir

    primitive = Primitive("cpu_only")
    primitive.def_abstract_eval(lambda shape: shape)
    primitive.def_impl(lambda array: array)
    mlir.register_lowering(primitive, lambda context, array: [array], platform="cpu")
    return primitive.bind(x)


@dataclass(frozen=True, kw_only=True)
class OnProcessors(Mlp):
    """A network that accelerators cannot run."""

    def build(self, head):
        model = super().build(head)
        first, *rest = model.stages

        def apply(params, stats, carry, context):
            return first.apply(params, stats, carry | {self.input: cpu_only(carry[self.input])}, context)

        return model._replace(stages=(first._replace(apply=apply), *rest))


def test_a_platform_that_a_model_cannot_be_lowered_for_is_left_out_and_named(tmp_path):
    pretrained = pretrained_of(OnProcessors(inputs=(2, 2, 1), widths=(3,)), tasks.Classification(classes=2))
    written = write_program(pretrained, tmp_path)
    assert written.about["platforms"] == ["cpu"] and written.sizes.batch is None
    assert [name for note in written.notes for name in ("cuda", "tpu") if name in note] == ["cuda", "tpu"]


def test_a_program_with_other_weights_is_refused(tmp_path):
    pretrained = pretrained_of(*MODELS["cnn"])
    written = write_program(pretrained, tmp_path)
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-4:] = np.float32(1e3).tobytes()
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="other outputs"):
        check_program(pretrained, written.preparation.fields, written.sizes, tmp_path)


def test_nothing_is_left_of_an_export_that_fails(run, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.export.program.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="largest difference"):
        export_run(run.folder, tmp_path / "program", to="stablehlo")
    assert not list(tmp_path.iterdir())


def test_the_description_states_what_the_program_takes_and_returns(run, tmp_path):
    export_run(run.folder, tmp_path / "program", to="stablehlo")
    about = json.loads((tmp_path / "program" / "program.json").read_text())
    assert about["inputs"] == {"image": {"shape": ["batch", 8, 8, 1], "dtype": "float32"}}
    assert about["outputs"] == {"logits": {"shape": ["batch", 10], "dtype": "float32"}}
    assert tuple(about["classes"]) == tuple(run.recipe.task.names) and about["largest_difference"] <= 1e-5
    assert isinstance(tlx.load_pretrained(run.folder).model.config, Architecture)


@pytest.mark.slow
def test_the_program_of_real_weights_computes_the_same_without_tlx(alone, tmp_path):
    export_run("minilm-l6", tmp_path / "program", to="stablehlo")
    code = code_of((tmp_path / "program" / "README.md").read_text())
    alone(f"{code}\nnp.save('hidden.npy', outputs['hidden'])", tmp_path / "program", "tokenizers")
    pretrained = tlx.load_pretrained("minilm-l6")
    rows = [pretrained.processor({"text": text}) for text in ("the first text", "a second text")]
    inputs = collate(rows, pretrained.processor.fields)
    expected = jax.jit(inference(pretrained.model))(leaves_of(pretrained), inputs)["hidden"]
    np.testing.assert_allclose(np.load(tmp_path / "program" / "hidden.npy"), expected, atol=1e-5, rtol=0)
