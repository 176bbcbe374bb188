"""Questions about texts that are longer than the model reads, from a file to a report, a prediction, an evaluation."""

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
from tlx.analysis.evaluation import evaluate
from tlx.cli import main
from tlx.data import Jsonl
from tlx.functional.answers import exact, overlap
from tlx.models import Span
from tlx.processors import TextProcessor
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained

TOWNS = ["rome", "bern", "oslo"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "which", "town", "?", "we", "saw", "no", "old", "##er", ".", *TOWNS]


def rows(count=160):
    """One sentence in five names a town. Without one there is no answer."""
    random, questions = np.random.default_rng(0), []
    for _ in range(count):
        words = random.choice(["we saw no older .", "we saw old .", "older no ."], random.integers(1, 5)).tolist()
        answers = {"text": [], "answer_start": []}
        if random.random() < 0.8:
            town = str(random.choice(TOWNS))
            words.insert(int(random.integers(0, len(words) + 1)), f"we saw {town} .")
            answers = {"text": [town], "answer_start": [" ".join(words).index(town)]}
        questions.append({"question": "which town ?", "context": " ".join(words), "answers": answers})
    return questions


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A small BERT with random weights and 16 positions, for texts of up to 30 tokens."""
    raw = Tokenizer(tokenizer_models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    model = models.build(
        models.Bert(vocabulary=len(PIECES), width=16, depth=1, heads=2, mlp=32, positions=16, dropout=0.0), None
    )
    variables = Variables(*jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0)))
    folder = tmp_path_factory.mktemp("questions")
    pretrained = Pretrained(model, variables, TextProcessor(raw, tokens=16), Manifest("here", {}, ()), None)
    save_pretrained(pretrained, folder / "bert", untrained=True)
    (folder / "towns.jsonl").write_text("\n".join(map(json.dumps, rows())), encoding="utf-8")
    return Recipe(
        data=Data(target=Jsonl(str(folder / "towns.jsonl")), tokens=16, buckets=(16,)),
        task=tasks.QuestionAnswering(stride=4),
        weights=Weights(str(folder / "bert")),
        tuning=tuning.Full(),
        optim=Optim(lr=1e-2),
        train=Train(steps=60, batch=16, eval_batch=32, eval_every=60),
    )


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    return tlx.run(recipe, tmp_path_factory.mktemp("runs") / "towns", quiet=True)


@pytest.mark.slow
def test_a_run_finds_answers_in_windows_and_its_model_is_used_everywhere(run, recipe, tmp_path):
    assert run.metrics["test/exact_match"] > 0.9 and run.metrics["test/answer_f1"] >= run.metrics["test/exact_match"]
    assert run.result["task"] == {"stride": 4, "no_answer": True, "window": 16} and run.result["label"] == "answers"
    scores = np.load(run.folder / "predictions" / "test.npz")
    assert run.metrics["test/answer_f1"] == pytest.approx(scores["f1"].mean())
    # The stored characters are those of the answers, and the prediction from the saved model has the same text.
    source = Jsonl(recipe.data.target.path).open().splits["test"]
    examples = [source[int(n)] for n in scores["indices"]]
    texts = [e["text_pair"][a:b] for e, a, b in zip(examples, scores["first"], scores["last"], strict=True)]
    for example, text, em, f1 in zip(examples, texts, scores["em"], scores["f1"], strict=True):
        truths = example["label"]["text"]
        assert (em, f1) == (exact(text, truths), overlap(text, truths))
    for place in (run.folder, run.folder / "model"):
        answers = tlx.predict.predict(place, [(e["text"], e["text_pair"]) for e in examples])
        assert [next(iter(answer)) for answer in answers] == texts
        np.testing.assert_allclose([next(iter(a.values())) for a in answers], scores["confidence"], rtol=1e-4)
    assert load_pretrained(run.folder / "model").model.head == Span(window=16)
    document = json.loads((run.folder / "model" / "config.json").read_text())
    assert document["architectures"] == ["BertForQuestionAnswering"]
    # Of the run's own test split, and of all rows of the file.
    own = evaluate(run.folder)
    np.testing.assert_array_equal(own.predictions.scores["em"], scores["em"])
    assert len(evaluate(run.folder, recipe.data.target.path).predictions) == 160
    page = (run.folder / "report.html").read_text()
    assert "F1 of answers" in page and "exact match" in page
    long = " ".join(["we saw no older ."] * 9)
    result = CliRunner().invoke(
        main, ["predict", str(run.folder), "--pair", "which town ?", f"{long} we saw oslo . {long}"]
    )
    assert result.exit_code == 0 and result.output.startswith("oslo "), result.output
    result = CliRunner().invoke(main, ["predict", str(run.folder), "--pair", "which town ?", "we saw no older ."])
    assert result.output.startswith("(no answer) "), result.output


@pytest.mark.slow
def test_pieces_of_a_batch_have_the_loss_of_the_whole(recipe, tmp_path):
    """Texts have different numbers of windows, and the loss is a sum over them."""
    few = tlx.config.assign(recipe, "train.steps", 2)
    full = tlx.run(few, tmp_path / "full", quiet=True)
    pieces = tlx.run(tlx.config.assign(few, "train.accumulate", 2), tmp_path / "pieces", quiet=True)
    assert pieces.metrics["validation/loss"] == pytest.approx(full.metrics["validation/loss"], rel=1e-4)


def test_long_texts_without_a_stride_are_an_error_with_the_row(recipe, tmp_path):
    with pytest.raises(ValueError, match=r"towns.jsonl line \d+: .*more than 16 tokens.*stride=5") as error:
        tlx.run(replace(recipe, task=tasks.QuestionAnswering()), tmp_path / "long", quiet=True)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"stride=14 is not below the 13 tokens"):
        tlx.run(replace(recipe, task=tasks.QuestionAnswering(stride=14)), tmp_path / "wide", quiet=True)
