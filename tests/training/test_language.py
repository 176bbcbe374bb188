"""Language modelling from a CSV file to a report: masked words, the next word, hidden spans, text to text."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models

import tlx
from tlx import Data, Optim, Recipe, Train, Weights, models, tasks, tuning
from tlx.analysis.continued import Continued, measure
from tlx.analysis.interference import Interference
from tlx.analysis.interference import measure as interference
from tlx.cli import main
from tlx.data import Csv, Member, Mixture
from tlx.functional.losses import IGNORED
from tlx.models import Vocabulary, build, forward
from tlx.models.taps import PLACES
from tlx.processors import TextProcessor
from tlx.training.prepare import open_data, prepare, training_batches
from tlx.training.reopen import Meter, reopen
from tlx.training.results import in_pieces
from tlx.training.step import compile_step, initial_state
from tlx.types import Column, Variables
from tlx.weights import Manifest, Pretrained, save_pretrained

WORDS = ["anna", "bonn", "sees", "the", "cat", "in", "a"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "an", "##na", "bo", "##nn", *WORDS[2:]]
WHOLE = ["<pad>", "</s>", "<unk>", *WORDS, "yes", "no", *(f"<extra_id_{n}>" for n in range(9, -1, -1))]
BEGUN = ["<s>", "<pad>", "</s>", "<unk>", *WORDS, "yes", "no"]
SIZES = {"width": 32, "depth": 2, "heads": 2, "mlp": 64, "dropout": 0.0}
SETTINGS = {"optim": Optim(lr=3e-3), "train": Train(steps=40, batch=16, eval_batch=16, eval_every=40)}


def saved(folder, config, processor):
    model = build(config, None)
    variables = jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0))
    pretrained = Pretrained(model, Variables(*variables), processor, Manifest("here", {}, ()), None)
    save_pretrained(pretrained, folder, untrained=True)
    return str(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Texts in which the words follow each other in one order, a class, and the first three words backwards."""
    random = np.random.default_rng(0)
    rows = []
    for start, count in zip(random.integers(0, 7, 240), random.integers(3, 9, 240), strict=True):
        text = [WORDS[(start * 3 + n) % 7] for n in range(count)]
        rows.append(f"{' '.join(text)},{'yes' if 'anna' in text[:2] else 'no'},{' '.join(text[::-1][:3])}")
    file = tmp_path_factory.mktemp("texts") / "texts.csv"
    file.write_text("\n".join(["text,label,back", *rows]) + "\n")
    return str(file)


@pytest.fixture(scope="module")
def pieces():
    raw = Tokenizer(tokenizer_models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return raw


@pytest.fixture(scope="module")
def encoder(pieces, tmp_path_factory):
    config = models.Bert(vocabulary=len(PIECES), positions=18, **SIZES)
    return saved(tmp_path_factory.mktemp("weights") / "bert", config, TextProcessor(pieces, tokens=17))


@pytest.fixture(scope="module")
def decoder(pieces, tmp_path_factory):
    config = models.Gpt2(vocabulary=len(PIECES), positions=18, **SIZES)
    return saved(tmp_path_factory.mktemp("weights") / "gpt2", config, TextProcessor(pieces, tokens=17))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    raw = Tokenizer(tokenizer_models.WordLevel({word: n for n, word in enumerate(WHOLE)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    config = models.T5(vocabulary=len(WHOLE), decoder_depth=2, size=16, **SIZES)
    return saved(tmp_path_factory.mktemp("weights") / "t5", config, TextProcessor(raw, tokens=15, token_types=False))


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    """A BART that must begin every text with the token that begins the texts of its tokenizer."""
    raw = Tokenizer(tokenizer_models.WordLevel({word: n for n, word in enumerate(BEGUN)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(BEGUN[:4])
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    sizes = SIZES | {"depth": 1, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp": 64, "positions": 64}
    config = models.Bart(vocabulary=len(BEGUN), forced_first=0, **sizes)
    processor = TextProcessor(raw, tokens=17, pad_id=1, token_types=False)
    return saved(tmp_path_factory.mktemp("weights") / "bart", config, processor)


def recipe(file, weights, task, *, label=(), kind=None, **changes):
    data = Data(target=Csv(file, text="text", label=label, label_kind=kind), tokens=17, buckets=(17,))
    return Recipe(data=data, task=task, weights=Weights(weights), **(SETTINGS | changes))


@pytest.fixture(scope="module")
def masked(texts, encoder, tmp_path_factory):
    """A run of masked words on texts without labels."""
    task = tasks.MaskedLanguageModel(whole_words=True, rate=0.3)
    return tlx.run(recipe(texts, encoder, task), tmp_path_factory.mktemp("runs") / "masked", quiet=True)


def test_masked_words_are_learned_from_texts_without_labels(masked):
    metrics = masked.metrics
    assert metrics["test/perplexity"] < 0.8 * len(PIECES)
    assert metrics["test/perplexity"] == pytest.approx(np.exp(metrics["test/loss"]))
    stored = np.load(masked.folder / "predictions" / "test.npz")
    assert {"loss", "tokens", "right"} <= set(stored.files) and max(stored[name].ndim for name in stored.files) == 1
    # Of n pieces without the special ones 30 % are hidden, of the last word perhaps not all of them.
    assert stored["tokens"].min() >= 1 and stored["tokens"].max() <= 5
    document = json.loads((masked.folder / "model" / "config.json").read_text())
    assert document["architectures"] == ["BertForMaskedLM"] and "id2label" not in document
    (mistake, *_) = json.loads((masked.folder / "mistakes.json").read_text())
    assert all(len(pair.split("/")) == 2 for pair in mistake["answer"].split())


def test_a_text_always_has_the_same_hidden_words_in_evaluation(masked):
    opened = reopen(masked.folder)
    stored = np.load(masked.folder / "predictions" / "test.npz")
    train = dataclasses.replace(opened.ready.recipe.train, eval_batch=5)
    data = dataclasses.replace(opened.ready.recipe.data, buckets=(9, 13))
    changed = dataclasses.replace(opened.ready.recipe, train=train, data=data)
    scores = Meter(opened._replace(ready=opened.ready._replace(recipe=changed)))(opened.after, "test").scores
    np.testing.assert_array_equal(scores["tokens"], stored["tokens"])
    np.testing.assert_allclose(scores["loss"], stored["loss"], rtol=1e-4, atol=1e-5)


def test_a_run_of_masked_words_fills_a_text_and_measures_other_texts(masked, texts, tmp_path):
    (answer,) = tlx.predict.predict(masked.folder, ["anna sees [MASK] cat [MASK]"])
    assert len(answer) == 2 and set(answer) <= {*PIECES, "na", "nn"}
    result = CliRunner().invoke(main, ["eval", str(masked.folder), "--data", texts, "--out", str(tmp_path / "eval")])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert document["primary"] == "perplexity" and document["data"]["examples"] == 240


def test_the_weights_of_a_run_of_masked_words_start_a_classifier(masked, texts, encoder):
    task = tasks.Classification(classes=2)
    after = tlx.load_pretrained(str(masked.folder), task)
    before = tlx.load_pretrained(encoder, task)
    name = ("blocks", "00", "mlp", "up", "kernel")
    one, two = (pretrained.variables.params for pretrained in (before, after))
    for part in name:
        one, two = one[part], two[part]
    assert np.abs(np.asarray(one) - np.asarray(two)).max() > 1e-4
    assert {entry.path for entry in after.manifest.entries if entry.action == "reset"} == {
        "pool/kernel", "pool/bias", "head/output/kernel", "head/output/bias",
    }  # fmt: skip


def test_the_next_word_is_learned_with_an_end(texts, decoder, tmp_path):
    outcome = tlx.run(recipe(texts, decoder, tasks.CausalLanguageModel()), tmp_path / "run", quiet=True)
    # All words but the first follow from those before; the text may end anywhere.
    assert outcome.metrics["test/accuracy"] > 0.7
    stored = np.load(outcome.folder / "predictions" / "test.npz")
    sizes = [len(TextProcessor.load(decoder)({"text": row.split(",")[0]})["input_ids"]) for row in lines(texts)]
    # Every piece and the end, but [CLS], which nothing precedes.
    assert stored["tokens"].max() == max(sizes) - 1
    (answer,) = tlx.predict.predict(outcome.folder, ["anna sees bonn"])
    assert set(answer[0].split()) <= {*PIECES, "##na", "##nn"}


def lines(file):
    with open(file, encoding="utf-8") as stream:
        return stream.read().splitlines()[1:]


@pytest.mark.parametrize(
    "damage",
    ["spans", pytest.param("cut", marks=pytest.mark.slow), pytest.param("shuffled", marks=pytest.mark.slow)],
)
def test_damaged_texts_are_repaired(texts, both, damage, tmp_path):
    task = tasks.Denoising(damage=damage)
    outcome = tlx.run(recipe(texts, both, task), tmp_path / "run", quiet=True)
    assert outcome.metrics["test/perplexity"] < {"spans": 4, "cut": 6, "shuffled": 8}[damage]


def test_a_class_is_written_as_a_word(texts, both, tmp_path):
    outcome = tlx.run(recipe(texts, both, tasks.TextToText(), label="label"), tmp_path / "run", quiet=True)
    assert outcome.metrics["test/exact_match"] > 0.7
    stored = np.load(outcome.folder / "predictions" / "test.npz")
    assert set(*tlx.predict.predict(outcome.folder, ["anna bonn sees the"])) <= {"yes", "no"}
    command = ["export", str(outcome.folder), "--to", "stablehlo", "--out", str(tmp_path / "program")]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2 and "token by token" in refused.output
    # The word and the end.
    assert (stored["tokens"] == 2).all() and (stored["correct"] == (stored["right"] == 2)).all()


def mixed(texts, weights, **changes):
    """Return a recipe of two tasks in one model: whether a text has a word at its start, and its last words."""
    has = Member(name="has", source=Csv(texts, text="text", label="label"), prefix="yes ")
    back = Member(name="back", source=Csv(texts, text="text", label="back", label_kind="text"), prefix="no ")
    first = recipe(texts, weights, tasks.TextToText(), **changes)
    return dataclasses.replace(first, data=dataclasses.replace(first.data, target=Mixture((has, back))))


def test_a_mixture_of_tasks_is_measured_by_member(texts, both, tmp_path):
    train = Train(steps=40, batch=16, eval_batch=16, eval_every=20)
    outcome = tlx.run(mixed(texts, both, train=train), tmp_path / "run", quiet=True)
    result = json.loads((outcome.folder / "result.json").read_text())
    counts = {"train": 173, "validation": 19, "test": 48}
    assert result["members"] == {name: {"rate": 0.5, "examples": counts} for name in ("has", "back")}
    assert "training draws 50.0% has (173 examples), 50.0% back (173 examples)" in result["notes"]
    stored = np.load(outcome.folder / "predictions" / "test.npz")
    metrics = outcome.metrics
    for number, name in enumerate(("has", "back")):
        correct = stored["correct"][stored["member"] == number]
        assert metrics[f"test/{name}/exact_match"] == pytest.approx(correct.mean()) and len(correct) == 48
    assert metrics["test/has/exact_match"] > 0.6
    values = [metrics[f"test/{name}/loss"] for name in ("has", "back")]
    assert metrics["test/average/loss"] == pytest.approx(np.mean(values))
    lines = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["name"] == "validation/back/exact_match"] == [20, 40]
    page = (outcome.folder / "report.html").read_text()
    assert 'data-metric="test/back/exact_match"' in page and 'data-metric="test/average/exact_match"' in page
    arguments = ["eval", str(outcome.folder), "--by", "member", "--out", str(tmp_path / "eval")]
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    slices = json.loads((tmp_path / "eval" / "evaluation.json").read_text())["slices"]
    by_name = {item["value"]: item["metrics"][0]["value"] for item in slices}
    assert by_name == pytest.approx({name: metrics[f"test/{name}/exact_match"] for name in ("has", "back")})


@pytest.mark.slow
def test_interference_ends_in_a_matrix(texts, both, tmp_path, no_page):
    train = Train(steps=4, batch=16, eval_batch=16, eval_every=4)
    plan = Interference(recipe=mixed(texts, both, train=train), seeds=1)
    document = interference(plan, tmp_path / "study", quiet=True)
    assert [(item["row"], item["column"]) for item in document["effects"]] == [("has", "back"), ("back", "has")]
    assert [row["member"] for row in document["table"]] == ["has", "back", "average"]
    assert json.loads((tmp_path / "study" / "interference.json").read_text())["effects"] == document["effects"]
    cells = {file: file.read_bytes() for file in (tmp_path / "study" / "cells").glob("*/result.json")}
    assert len(cells) == 3
    # The same command again runs nothing.
    assert interference(plan, tmp_path / "study", quiet=True)["effects"] == document["effects"]
    assert all(file.read_bytes() == content for file, content in cells.items())


def test_an_answer_of_bart_begins_with_the_forced_word(texts, bart):
    changed = recipe(texts, bart, tasks.TextToText(), label="label")
    splits = open_data(changed)
    ready = prepare(changed, splits)
    assert (ready.task.first, ready.task.start, ready.task.end, ready.task.pad) == (0, 2, 2, 1)
    damaged = ready.task.transform(next(training_batches(ready, splits))["labelled"], jax.random.key(0))
    label, read = (np.asarray(damaged[name]) for name in ("label", "decoder_input_ids"))
    assert set(label[:, 1].tolist()) == {BEGUN.index("yes"), BEGUN.index("no")}
    assert (label[:, [0, 2]] == [0, 2]).all() and (label[:, 3:] == IGNORED).all()
    assert (read[:, :2] == [2, 0]).all() and (read[:, 2] == label[:, 1]).all()


@pytest.mark.slow
def test_bart_writes_a_class_behind_the_forced_word(texts, bart, tmp_path):
    outcome = tlx.run(recipe(texts, bart, tasks.TextToText(), label="label"), tmp_path / "run", quiet=True)
    assert outcome.metrics["test/exact_match"] > 0.7
    # The forced word, the class and the end.
    stored = np.load(outcome.folder / "predictions" / "test.npz")
    assert (stored["tokens"] == 3).all()
    assert set(*tlx.predict.predict(outcome.folder, ["anna bonn sees the"])) <= {"yes", "no"}


@pytest.mark.parametrize("damage", ["cut", pytest.param("shuffled", marks=pytest.mark.slow)])
def test_bart_repairs_damaged_texts_behind_their_first_word(texts, bart, damage, tmp_path):
    task = tasks.Denoising(damage=damage)
    changed = tlx.config.assign(recipe(texts, bart, task), "train.accumulate", 2)
    splits = open_data(changed)
    ready = prepare(changed, splits)
    # The bias of the words is a statistic that no batch changes.
    assert in_pieces(ready) == []
    batch = next(training_batches(ready, splits))["labelled"]
    damaged = ready.task.transform(batch, jax.random.key(0))
    for name in ("input_ids", "label"):
        tokens = np.asarray(damaged[name])
        assert (tokens[:, 0] == 0).all() and (tokens[:, 1:] != 0).all()
        assert ((tokens == 2).sum(1) == 1).all() and tokens.shape == batch["input_ids"].shape
    assert (np.asarray(damaged["decoder_input_ids"])[:, :2] == [2, 0]).all()
    if damage == "shuffled":
        outcome = tlx.run(changed, tmp_path / "run", quiet=True)
        assert outcome.metrics["test/perplexity"] < 6


@pytest.mark.slow
def test_a_text_is_written_for_a_text(texts, both, tmp_path):
    changed = recipe(
        texts, both, tasks.TextToText(), label="back", kind="text", train=Train(steps=240, batch=16, eval_every=240)
    )
    outcome = tlx.run(changed, tmp_path / "run", quiet=True)
    assert outcome.metrics["test/exact_match"] > 0.9
    arguments = ["eval", str(outcome.folder), "--data", texts, "--label", "back", "--out", str(tmp_path / "eval")]
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0


def test_a_batch_in_pieces_hides_the_same_words(texts, encoder):
    whole = recipe(texts, encoder, tasks.MaskedLanguageModel(rate=0.3), tuning=tuning.Full())
    states = {}
    for pieces in (1, 2):
        changed = tlx.config.assign(whole, "train.accumulate", pieces)
        splits = open_data(changed)
        ready = prepare(changed, splits)
        compiled = compile_step(ready.parts(0), tlx.sharding.make_mesh())
        state = compiled.place(initial_state(ready.parts(0), ready.variables, 4, jax.random.key(0)))
        batch = next(training_batches(ready, splits))
        states[pieces] = compiled.train(state, jax.tree.map(compiled.put, batch))[1]
    assert float(states[1]["loss"]) == pytest.approx(float(states[2]["loss"]), rel=1e-5)
    np.testing.assert_allclose(states[1]["leaf_norms"], states[2]["leaf_norms"], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("prompt", [0, 3])
def test_logits_at_some_places_are_those_of_all_places(prompt):
    model = build(models.Bert(vocabulary=19, positions=13, **SIZES), Vocabulary())
    params = models.initialise(model, jax.random.key(0)).params
    if prompt:
        params = tuning.Prompt(tokens=prompt).insert(model, params, jax.random.key(1))
    random = np.random.default_rng(0)
    ids, places = random.integers(0, 19, (2, 9)), np.array([[4, 0, 8], [1, 1, 2]])

    def logits(params, chosen):
        inputs = {"input_ids": ids} | ({PLACES: places} if chosen else {})
        taps, _ = forward(model, Variables(params, {}), inputs)
        # The other taps are those of the whole text.
        assert taps["hidden"].shape[1] == 9 + prompt
        return taps["logits"] if chosen else jnp.take_along_axis(taps["logits"], places[..., None], 1)

    weights = random.normal(size=(2, 3, 19)).astype(np.float32)
    values, slopes = (
        [jax.jit(work, static_argnums=1)(params, chosen) for chosen in (True, False)]
        for work in (logits, jax.grad(lambda params, chosen: (logits(params, chosen) * weights).sum()))
    )
    np.testing.assert_allclose(*values, atol=1e-5)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5), *slopes)


def test_an_answer_may_be_longer_than_its_text(texts, both, tmp_path):
    rows = [line.split(",") for line in lines(texts)]
    file = tmp_path / "longer.csv"
    file.write_text("\n".join(["text,label", *(f"{row[2]},{row[0]} {row[0]} {row[0]}" for row in rows)]) + "\n")
    longer = recipe(str(file), both, tasks.TextToText(), label="label", kind="text")
    longer = tlx.config.assign(longer, "data.buckets", (4, 8, 17))
    splits = open_data(longer)
    ready = prepare(longer, splits)
    batch = next(training_batches(ready, splits))["labelled"]
    assert batch["label"].shape == batch["input_ids"].shape
    # The longest answers are cut to the length of a text, with an end.
    counts, ends = (batch["label"] != IGNORED).sum(1), (batch["label"] == ready.task.end).sum(1)
    inputs = batch["attention_mask"].sum(1)
    assert (counts > inputs).any() and counts.max() <= ready.processor.tokens and (ends == 1).all()


def test_only_the_end_of_a_text_is_left_out_before_it_is_continued(decoder):
    model = tlx.load_pretrained(decoder, tasks.CausalLanguageModel())
    # The first token and one in the middle are the end, too, as in tokenizers with one special token.
    ids = np.array([[3, 9, 3, 10, 3], [3, 11, 12, 0, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
    task = tasks.CausalLanguageModel(end=3, longest=4)
    written = task.writer(model.model)(model.variables, {"input_ids": ids, "attention_mask": mask})
    mask[0, 4] = 0
    expected = models.generate(
        model.model, model.variables, {"input_ids": ids, "attention_mask": mask}, longest=4, stop=(3,)
    )
    np.testing.assert_array_equal(written["tokens"], expected.tokens)


def test_only_the_completion_counts(pieces):
    processor = TextProcessor(pieces, tokens=12)
    pair = {"text": "the cat", "text_pair": "sees anna"}
    label = tasks.CausalLanguageModel(completions=True, ends=False).targets(pair, processor)["label"]
    # [CLS] the cat [SEP] sees an ##na [SEP]
    counted = [PIECES.index(piece) for piece in ("sees", "an", "##na")]
    assert label.tolist() == [IGNORED] * 4 + counted + [IGNORED]
    with pytest.raises(ValueError, match="text_pair"):
        tasks.CausalLanguageModel(completions=True).targets({"text": "the cat"}, processor)


def test_mistakes_are_named_in_one_line(texts, encoder, decoder, both, tmp_path):
    def error(weights, task, **settings):
        changed = recipe(texts, weights, task, **settings)
        with pytest.raises(ValueError) as raised:
            prepare(changed, open_data(changed))
        message = str(raised.value)
        assert "\n" not in message
        return message

    assert "reads the whole text at once" in error(encoder, tasks.CausalLanguageModel())
    assert "no encoder" in error(decoder, tasks.TextToText(), label="label")
    assert "[MASK]" in error(both, tasks.MaskedLanguageModel())
    assert "15 marks" in error(both, tasks.Denoising(rate=0.9, span=1.0))
    with pytest.raises(ValueError, match="TextToText expects a text or a class"):
        tasks.TextToText().resolve({"label": Column("number")})
    for make in (
        lambda: tasks.MaskedLanguageModel(rate=15.0),
        lambda: tasks.Denoising(damage="words"),
        lambda: tasks.Denoising(span=0.5),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()


@pytest.mark.slow
def test_continued_pretraining_ends_in_one_table(texts, encoder, tmp_path, no_page):
    train = Train(steps=4, batch=8, eval_batch=32, eval_every=4)
    first = recipe(texts, encoder, tasks.Classification(), label="label", train=train)
    plan = Continued(recipe=tlx.config.assign(first, "data.shots", 10), seeds=1, steps=4, arms=("task",))
    assert measure(plan, tmp_path / "dapt", quiet=True).counts["done"] == 2
    written = tmp_path / "dapt" / "pretraining" / "task-0" / "result.json"
    before = written.read_bytes()
    assert b"test/" not in before
    # The same command again runs nothing.
    assert measure(plan, tmp_path / "dapt", quiet=True).counts["done"] == 2
    assert written.read_bytes() == before
