"""A tag for each word and several labels for each text, from CSV files to a report and a prediction."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models

import tlx
from tlx import Data, Optim, Recipe, Train, Weights, models, tasks, tuning
from tlx.cli import main
from tlx.data import Csv
from tlx.processors import TextProcessor
from tlx.training.reopen import Meter, reopen
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, save_pretrained

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "an", "##na", "bo", "##nn", "sees", "the", "cat", "in", "a", "##b"]
NAMES = {"anna": "PER", "bonn": "LOC"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small BERT with random weights, and a tokenizer that splits names into two pieces."""
    raw = Tokenizer(tokenizer_models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = models.Bert(vocabulary=len(PIECES), width=32, depth=2, heads=2, mlp=64, positions=16, dropout=0.0)
    model = models.build(config, None)
    variables = jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0))
    folder = tmp_path_factory.mktemp("weights") / "bert"
    pretrained = Pretrained(model, Variables(*variables), TextProcessor(raw, tokens=12), Manifest("here", {}, ()), None)
    save_pretrained(pretrained, folder, untrained=True)
    return str(folder)


def sentences(count):
    random = np.random.default_rng(0)
    words = ["anna", "bonn", "sees", "the", "cat", "in", "a"]
    return [[words[n] for n in random.integers(0, len(words), random.integers(2, 6))] for _ in range(count)]


@pytest.fixture(scope="module")
def tokens(weights, tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "names.csv"
    rows = [f"{' '.join(s)},{' '.join(NAMES.get(w, 'O') for w in s)}" for s in sentences(240)]
    file.write_text("\n".join(["tokens,ner", *rows]) + "\n")
    return Recipe(
        data=Data(target=Csv(str(file), words="tokens", label="ner"), tokens=12, buckets=(8, 12)),
        task=tasks.TokenClassification(),
        weights=Weights(weights),
        tuning=tuning.Full(),
        optim=Optim(lr=3e-3),
        train=Train(steps=40, batch=16, eval_batch=16, eval_every=20),
    )


@pytest.fixture(scope="module")
def tagged(tokens, tmp_path_factory):
    return tlx.run(tokens, tmp_path_factory.mktemp("runs") / "names", quiet=True)


def test_words_are_tagged_and_every_record_counts_words(tagged):
    assert tagged.metrics["test/micro_f1"] > 0.9
    assert tagged.metrics.keys() >= {"test/macro_f1", "test/accuracy", "test/loss", "validation/micro_f1"}
    remaining = np.load(tagged.folder / "predictions" / "test.npz")
    # Sums and counts of each example, never the logits of every token.
    assert (
        remaining.files
        and max(remaining[name].ndim for name in remaining.files) == 2
        and "logits" not in remaining.files
    )
    assert remaining["tp"].shape[1] == 3 and not remaining["tp"][:, 1].any(), "the class outside is never counted"
    tp, fp, fn = (remaining[name].sum() for name in ("tp", "fp", "fn"))
    assert tagged.metrics["test/micro_f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    page = (tagged.folder / "report.html").read_text()
    assert "micro F1" in page and "PER" in page


def test_the_run_opens_again_and_predicts_a_tag_for_each_word(tagged):
    opened = reopen(tagged.folder)
    assert opened.ready.task.names == ("LOC", "O", "PER")
    scores = Meter(opened)(opened.after, "validation").scores
    remaining = np.load(tagged.folder / "predictions" / "validation.npz")
    for name in remaining.files:
        if name != "indices":
            np.testing.assert_allclose(scores[name], remaining[name], rtol=1e-4, atol=1e-5, err_msg=name)
    document = json.loads((tagged.folder / "model" / "config.json").read_text())
    assert document["architectures"] == ["BertForTokenClassification"]
    result = CliRunner().invoke(main, ["predict", str(tagged.folder), "anna sees bonn"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    # [CLS] an ##na sees bo ##nn [SEP]
    assert result.output.partition("  |")[0].split() == ["PER", "O", "LOC"]


@pytest.mark.slow
def test_pieces_and_groups_of_ragged_batches_agree(tokens, tmp_path):
    """The loss is a sum over words, and examples have different numbers of words. Neighbouring names are one entity."""
    file = tmp_path / "entities.csv"
    letters = {"anna": "I-PER", "bonn": "B-LOC"}
    rows = [f"{' '.join(s)},{' '.join(letters.get(w, 'O') for w in s)}" for s in sentences(240)]
    file.write_text("\n".join(["tokens,ner", *rows]) + "\n")
    few = replace(tokens, data=replace(tokens.data, target=Csv(str(file), words="tokens", label="ner")))
    few = tlx.config.assign(few, "train.steps", 3)
    full = tlx.run(few, tmp_path / "whole", quiet=True)
    cut = tlx.run(tlx.config.assign(few, "train.accumulate", 2), tmp_path / "cut", quiet=True)
    one, two = tlx.run_many([few, tlx.config.assign(few, "optim.lr", 1e-3)], [tmp_path / "one", tmp_path / "two"])
    assert not isinstance(two, Exception)
    for other in (cut, one):
        for name in ("test/loss", "validation/loss"):
            assert other.metrics[name] == pytest.approx(full.metrics[name], rel=1e-4)
    scores = np.load(full.folder / "predictions" / "test.npz")
    tp, fp, fn = (scores[f"entity_{name}"].sum() for name in ("tp", "fp", "fn"))
    assert tp + fn > 0 and scores["entity_tp"].shape[1] == 2
    assert full.metrics["test/entity_f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn)) and "entity_f1" in repr(full)
    assert any("illegal tag sequences" in note and "texts of train" in note for note in full.result["notes"])
    page = (full.folder / "report.html").read_text()
    assert "entity F1" in page and "(PER)" in page


@pytest.mark.slow
def test_several_labels_of_a_text(weights, tmp_path):
    file = tmp_path / "topics.csv"
    rows = [f"{' '.join(s)},{';'.join(sorted({NAMES[w] for w in s if w in NAMES}))}" for s in sentences(240)]
    file.write_text("\n".join(["text,topics", *rows]) + "\n")
    recipe = Recipe(
        data=Data(target=Csv(str(file), text="text", label="topics", separator=";"), tokens=12, buckets=(12,)),
        task=tasks.MultiLabel(),
        weights=Weights(weights, pooling="mean"),
        optim=Optim(lr=3e-3),
        train=Train(steps=40, batch=16, eval_batch=16, eval_every=20),
    )
    outcome = tlx.run(recipe, tmp_path / "run", quiet=True)
    assert outcome.metrics["test/micro_f1"] > 0.85
    document = json.loads((outcome.folder / "model" / "config.json").read_text())
    assert document["problem_type"] == "multi_label_classification"
    assert reopen(outcome.folder).ready.task == tasks.MultiLabel(names=("LOC", "PER"))
    (answer,) = tlx.predict.predict(outcome.folder, ["anna sees bonn"])
    assert answer.keys() == {"LOC", "PER"} and min(answer.values()) > 0.5
