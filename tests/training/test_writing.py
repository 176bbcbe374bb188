"""Answers that are written at evaluation, from the training to the report: which numbers come from which texts."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models

import tlx
from tlx import Data, Optim, Recipe, Train, Weights, config, models, sharding, tasks, tuning
from tlx.analysis.compare_runs import compare_runs
from tlx.analysis.soups import wise
from tlx.cli import main
from tlx.data import Csv
from tlx.functional.losses import IGNORED
from tlx.functional.texts import packed, unpacked
from tlx.models import build
from tlx.processors import TextProcessor
from tlx.records.log import read_metrics
from tlx.records.run_directory import Predictions, read_predictions
from tlx.report import intervals
from tlx.sharding import Mesh
from tlx.training import evaluate, vectorize
from tlx.training.loop import How
from tlx.training.outcome_notes import texts
from tlx.training.prepare import open_data, prepare
from tlx.training.reopen import reopen
from tlx.training.run_many import run_many
from tlx.training.step import initial_state
from tlx.training.writing import answers_of_runs, plain
from tlx.trees import added, flatten
from tlx.tuning import merge_layers
from tlx.types import Learn, Phase, Variables
from tlx.weights import Manifest, Pretrained, save_pretrained

WORDS = ["anna", "bonn", "sees", "the", "cat", "in", "a"]
PIECES = ["<pad>", "</s>", "<unk>", *WORDS]
SIZES = {"width": 32, "heads": 2, "mlp": 64, "dropout": 0.0}
EXACT = ("exact_match",)
# The number of examples of each split of which answers were written.
READ: list[int] = []
# Neither a model nor a page, which other tests need.
FILES = How(quiet=True, leave="learned")


def saved(folder, config):
    raw = Tokenizer(tokenizer_models.WordLevel({word: n for n, word in enumerate(PIECES)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B:1 </s>:1", special_tokens=[("</s>", 1)]
    )
    model = build(config, None)
    variables = jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0))
    processor = TextProcessor(raw, tokens=15, token_types=False)
    pretrained = Pretrained(model, Variables(*variables), processor, Manifest("here", {}, ()), None)
    save_pretrained(pretrained, folder, untrained=True)
    return str(folder)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    config = models.T5(vocabulary=len(PIECES), depth=1, decoder_depth=1, size=16, **SIZES)
    return saved(tmp_path_factory.mktemp("weights") / "t5", config)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    config = models.Gpt2(vocabulary=len(PIECES), depth=1, positions=32, **SIZES)
    return saved(tmp_path_factory.mktemp("weights") / "gpt2", config)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Texts whose words follow each other in one order, and their last four words."""
    random = np.random.default_rng(0)
    rows = []
    for start, count in zip(random.integers(0, 7, 120), random.integers(4, 9, 120), strict=True):
        words = [WORDS[(start * 3 + n) % 7] for n in range(count)]
        rows.append(f"{' '.join(words)},{' '.join(words[-4:])}")
    file = tmp_path_factory.mktemp("texts") / "texts.csv"
    file.write_text("\n".join(["text,last", *rows]) + "\n")
    return str(file)


def recipe(file, weights, task, **changes):
    train = {"steps": 30, "batch": 16, "eval_batch": 8, "eval_every": 15}
    data = Data(target=Csv(file, text="text", label="last", label_kind="text"), tokens=12, buckets=(12,))
    settings = {"data": data, "optim": Optim(lr=1e-2), "train": Train(**(train | changes.pop("train", {})))}
    return Recipe(task=task, weights=Weights(weights), **(settings | changes))


@pytest.fixture(scope="module")
def outcome(table, t5, tmp_path_factory):
    """A run whose answers are partly right, without a page."""
    write = evaluate.answers_of_runs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        patch.setattr(evaluate, "answers_of_runs", lambda *rest: (READ.append(len(rest[2])), write(*rest))[1])
        folder = tmp_path_factory.mktemp("runs") / "run"
        return tlx.run(recipe(table, t5, tasks.TextToText(longest=8)), folder, quiet=True)


def scores(outcome, split="test"):
    with np.load(outcome.folder / "predictions" / f"{split}.npz") as file:
        return {name: file[name] for name in file.files}


def truths(examples):
    return [example["label"] for example in examples]


def test_the_numbers_of_a_run_are_those_of_the_written_texts(outcome):
    opened = reopen(outcome.folder)
    for split in ("validation", "test"):
        stored, examples = scores(outcome, split), getattr(opened.splits, split)
        texts = unpacked(stored["written"])
        expected = [text == truth for text, truth in zip(texts, truths(examples), strict=True)]
        assert stored["correct"].tolist() == expected and 0 < sum(expected) < len(expected)
        assert outcome.metrics[f"{split}/exact_match"] == pytest.approx(np.mean(expected))
        # Greedy decoding writes the true text where each true token is the likeliest one after those before it.
        np.testing.assert_array_equal(stored["correct"], stored["right"] == stored["tokens"])
    assert outcome.predictions["prediction"].tolist() == texts
    mistakes = json.loads((outcome.folder / "mistakes.json").read_text())
    wrong = {
        int(place): text for place, text, right in zip(stored["indices"], texts, expected, strict=True) if not right
    }
    assert {mistake["index"]: mistake["answer"] for mistake in mistakes}.items() <= wrong.items()
    labels = dict(zip(stored["indices"].tolist(), truths(examples), strict=True))
    assert all(mistake["label"] == labels[mistake["index"]] != mistake["answer"] for mistake in mistakes)


def test_a_validation_during_training_writes_nothing(outcome):
    steps = [line["step"] for line in read_metrics(outcome.folder) if line["name"] == "validation/exact_match"]
    assert steps == [15, 30]
    splits = reopen(outcome.folder).splits
    # Once each, at the end.
    assert [len(splits.validation), len(splits.test)] == READ


@pytest.mark.slow
def test_a_task_without_metrics_of_texts_writes_nothing(outcome, table, t5, tmp_path):
    silent = tlx.run(recipe(table, t5, tasks.TextToText(text_metrics=())), tmp_path / "run", how=FILES)
    assert "written" not in scores(silent)
    # The same training, and the same numbers: greedy decoding writes what the likeliest tokens say.
    assert silent.metrics == outcome.metrics


def test_evaluation_and_prediction_write_the_answers_of_the_run(outcome, tmp_path):
    result = CliRunner().invoke(main, ["eval", str(outcome.folder), "--out", str(tmp_path / "eval")])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "eval" / "evaluation.json").read_text())
    assert {row["name"]: row["value"] for row in document["metrics"]}["exact_match"] == outcome.metrics[
        "test/exact_match"
    ]
    with np.load(tmp_path / "eval" / "scores.npz") as file:
        assert unpacked(file["written"]) == unpacked(scores(outcome)["written"])
    examples = reopen(outcome.folder).splits.test
    # As many rows as a batch of the evaluation.
    answers = tlx.predict.predict(outcome.folder, [examples[n]["text"] for n in range(8)])
    assert [answer[0] for answer in answers] == unpacked(scores(outcome)["written"][:8])


@pytest.mark.slow
def test_a_blend_writes_its_answers(outcome, tmp_path):
    metrics = wise(outcome.folder, 1.0, tmp_path / "blend")["metrics"]
    assert metrics["test/exact_match"] == outcome.metrics["test/exact_match"]


@pytest.mark.parametrize(
    "mesh", [pytest.param(Mesh(data=4), marks=pytest.mark.slow), Mesh(data=2, fsdp=2, tensor=2)], ids=str
)
def test_devices_that_share_the_work_write_the_same(outcome, mesh, monkeypatch):
    monkeypatch.setattr(sharding, "SMALLEST", 1)
    opened = reopen(outcome.folder)
    parts = opened.ready.parts(0)
    engine = vectorize.single(parts, sharding.make_mesh(mesh=mesh))
    state = engine.place([initial_state(parts, opened.after, 1, jax.random.key(0))])
    if mesh.fsdp > 1:
        assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.trainable))
    (texts,) = answers_of_runs(engine, state, opened.splits.test, opened.ready, lambda count: None)
    assert unpacked(texts) == unpacked(scores(outcome)["written"])


CONFIG = """
from tlx import Data, Optim, Recipe, Train, Weights, tasks
from tlx.data import Csv
def recipe():
    return Recipe(
        data=Data(
            target=Csv({table!r}, text="text", label="last", label_kind="text"), tokens=12, buckets=(12,)
        ),
        task=tasks.TextToText(longest=8),
        weights=Weights({weights!r}),
        optim=Optim(lr=1e-2),
        train=Train(steps=30, batch=16, eval_batch=8, eval_every=15),
    )
"""


@pytest.mark.slow
def test_processes_that_share_the_work_write_what_they_score(table, t5, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG.format(table=table, weights=t5))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    settings = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tlx.cli", "run", "config.py", "--out", "run", "--coordinator", address]
    lines = [[*command, "--processes", "2", "--process", str(n)] for n in range(2)]
    workers = [subprocess.Popen(line, cwd=tmp_path, env=settings) for line in lines]
    assert [worker.wait(240) for worker in workers] == [0, 0]
    stored = read_predictions(tmp_path / "run", "test").scores
    np.testing.assert_array_equal(stored["correct"], stored["right"] == stored["tokens"])
    assert 0 < stored["correct"].sum() < len(stored["correct"])


@pytest.mark.slow
def test_runs_that_train_together_write_their_own_answers(table, t5, tmp_path):
    base = recipe(table, t5, tasks.TextToText(longest=8), train={"eval_every": 30})
    recipes = [config.assign(base, "optim.lr", rate) for rate in (1e-2, 2e-3)]
    runs = run_many(recipes, [tmp_path / "a", tmp_path / "b"], how=FILES)
    assert [run.result["pack"]["arms"] for run in runs] == [2, 2]
    stored = [scores(run) for run in runs]
    assert unpacked(stored[0]["written"]) != unpacked(stored[1]["written"])
    for of_run in stored:
        np.testing.assert_array_equal(of_run["correct"], of_run["right"] == of_run["tokens"])


@dataclass(frozen=True, kw_only=True)
class Gains(tuning.Tuning):
    """Train a gain for each output of the projections in attention; the step multiplies the kernels by it."""

    merged_in_step = True

    def insert(self, model, params, key):
        leaves = {
            f"{path.removesuffix('kernel')}gain/scale": jax.numpy.ones(leaf.shape[-1])
            for path, leaf in flatten(params).items()
            if "attention" in path and path.endswith("kernel")
        }
        return added(params, leaves, "Gains")

    def phases(self, model):
        return (Phase(1.0, ((r".*", Learn()),)),)

    def merge(self, params):
        return merge_layers(params, "gain", lambda layer, gain: layer | {"kernel": layer["kernel"] * gain["scale"]})


@pytest.mark.slow
def test_merged_and_rounded_parameters_write_what_they_score(table, t5, tmp_path):
    """Greedy texts agree with the teacher-forced pass only if both see the same parameters."""
    for changes in (
        {"tuning": Gains()},
        {"train": {"parameter_dtype": "bfloat16"}},
        {"train": {"compile": "pmap"}},
    ):
        changed = recipe(table, t5, tasks.TextToText(longest=8), **changes)
        stored = scores(tlx.run(changed, tmp_path / str(len(list(tmp_path.iterdir()))), how=FILES))
        np.testing.assert_array_equal(stored["correct"], stored["right"] == stored["tokens"])
        assert 0 < stored["correct"].sum() < len(stored["correct"])


def test_a_completion_is_written_after_its_prompt_alone(gpt2):
    task = tasks.CausalLanguageModel(completions=True, longest=3, text_metrics=EXACT, end=1)
    opened = tlx.load_pretrained(gpt2, task)
    ids = np.array([[3, 4, 5, 6, 1], [7, 8, 9, 1, 0], [5, 4, 7, 7, 7]], np.int32)
    lengths = np.array([2, 3, 1])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int32)}
    before = np.arange(5) < lengths[:, None]
    answers = task.writer(opened.model)(
        opened.variables, batch | {"label": np.where(before | (ids == 0), IGNORED, ids)}
    )
    expected = models.generate(
        opened.model,
        opened.variables,
        {"input_ids": ids, "attention_mask": before.astype(np.int32)},
        longest=3,
        stop=(1,),
    )
    np.testing.assert_array_equal(answers["tokens"], expected.tokens)
    # A text alone is continued without its end, unless the first text of a pair has this end, too.
    alone = {"input_ids": ids[1:2], "attention_mask": batch["attention_mask"][1:2]}
    for shared, count in ((False, 3), (True, 4)):
        raw = opened.processor.tokenizer
        raw.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair=f"$A {'</s> ' if shared else ''}$B:1 </s>:1", special_tokens=[("</s>", 1)]
        )
        suited = task.suited(opened.model, opened.processor)
        assert suited.separated is shared
        alone_mask = (np.arange(5) < count)[None].astype(np.int32)
        expected = models.generate(
            opened.model, opened.variables, alone | {"attention_mask": alone_mask}, longest=3, stop=(1,)
        )
        np.testing.assert_array_equal(suited.writer(opened.model)(opened.variables, alone)["tokens"], expected.tokens)


@pytest.mark.parametrize(
    "changes", [{"parameter_dtype": "bfloat16"}, {"frozen_dtype": "int8"}], ids=["parameters", "frozen"]
)
def test_answers_are_written_with_the_numbers_that_a_step_computes_with(table, t5, changes):
    rounded = recipe(table, t5, tasks.TextToText(), tuning=tuning.Lora(rank=2), train=changes)
    ready = prepare(rounded, open_data(rounded))
    state = initial_state(ready.parts(0), ready.variables, 1, jax.random.key(0))
    name = next(path for path in flatten(ready.pretrained.params) if "mlp" in path and path.endswith("/kernel"))
    before, after = (
        np.asarray(flatten(params)[name]) for params in (ready.pretrained.params, plain(ready, state.variables).params)
    )
    assert after.dtype == np.float32 and not np.array_equal(after, before)
    step = np.abs(before).max() / 100
    np.testing.assert_allclose(after, before, atol=step)


@pytest.mark.slow
def test_completions_are_written_after_their_prompts(table, gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    task = tasks.CausalLanguageModel(completions=True, longest=8, text_metrics=EXACT)
    pairs = Data(target=Csv(table, text="text", text_pair="last", label=()), tokens=15, buckets=(15,))
    outcome = tlx.run(recipe(table, gpt2, task, data=pairs), tmp_path / "run", quiet=True)
    stored, examples = scores(outcome), reopen(outcome.folder).splits.test
    texts = unpacked(stored["written"])
    expected = [text == example["text_pair"] for text, example in zip(texts, examples, strict=True)]
    assert stored["correct"].tolist() == expected and 0 < sum(expected) < len(expected)
    np.testing.assert_array_equal(stored["correct"], stored["right"] == stored["tokens"])
    # The primary metric stays that of language models.
    assert next(iter(outcome.result["measures"])) == "perplexity"
    (mistake, *_) = json.loads((outcome.folder / "mistakes.json").read_text())
    assert mistake["label"] == mistake["text_pair"] != mistake["answer"]


def test_notes_name_long_texts_and_answers_that_are_all_the_same():
    def notes(written, tokens, correct, right=0):
        arrays = {"written": packed(written), "tokens": np.array(tokens), "correct": np.array(correct)}
        arrays["right"] = np.where(correct, tokens, right)
        return texts(tasks.TextToText(longest=8), {"test": Predictions(arrays, np.arange(len(written)))})

    assert notes(["a", "b"], [8, 2], [True, False]) == []
    (long,) = notes(["a", "b"], [9, 2], [True, False])
    assert "1 of 2" in long and "8 tokens" in long and "task.longest" in long
    (same,) = notes(["a b", "a b"], [2, 2], [True, False])
    assert "'a b'" in same and "2 test" in same
    assert notes(["a", "a"], [2, 2], [True, True]) == []
    (changed,) = notes(["a", "b"], [2, 2], [True, False], right=2)
    assert "1 of 2" in changed and "tokenizer" in changed and "data.tokens" in changed


def test_a_prompt_ends_before_the_first_counted_token():
    task = tasks.CausalLanguageModel(completions=True, end=9)
    ids = np.array([[3, 4, 5, 6, 0], [0, 0, 7, 5, 6], [5, 6, 0, 0, 0], [3, 4, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
    label = np.where(np.isin(ids, (5, 6)), ids, IGNORED)
    tokens, seen = task.prompts(ids, mask, label)
    rows = [row[kept > 0].tolist() for row, kept in zip(tokens, seen, strict=True)]
    # The third text is a completion alone, and the fourth a prompt whose completion was cut off.
    assert rows == [[3, 4], [7], [9], [3, 4]] and tokens.shape == (4, 3)


def test_mistakes_are_named_in_one_line(table, t5):
    for make, parts in (
        (lambda: tasks.TextToText(text_metrics=("blue",)), ("text_metrics", "'bleu'")),
        (lambda: tasks.CausalLanguageModel(text_metrics=EXACT), ("completions=True", "exact_match")),
        (
            lambda: tasks.TextToText(extra_metrics=(tasks.ExtraMetric(lambda scores: 0.0, name="bleu"),)),
            ("two metrics have the name 'bleu'",),
        ),
    ):
        with pytest.raises(ValueError) as raised:
            make()
        assert "\n" not in str(raised.value) and all(part in str(raised.value) for part in parts)


def test_a_learned_prompt_writes_nothing_and_the_run_says_so(table, t5):
    prompted = recipe(table, t5, tasks.TextToText(), tuning=tuning.Prompt(tokens=2))
    ready = prepare(prompted, open_data(prompted))
    assert any("prompt" in note and "exact match" in note for note in ready.notes)
    with pytest.raises(ValueError, match=r"'bleu'.*prompt.*Lora"):
        prepare(config.assign(prompted, "task.text_metrics", ("exact_match", "bleu")), open_data(prompted))


@pytest.mark.parity
def test_a_run_is_chosen_and_reported_by_bleu_and_rouge(table, t5, tmp_path):
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    task = tasks.TextToText(longest=8, text_metrics=("exact_match", "bleu", "rouge1", "rougeLsum"))
    chosen = recipe(table, t5, task, train={"steps": 45, "select": "validation/bleu"})
    outcome = tlx.run(chosen, tmp_path / "run", quiet=True)
    opened = reopen(outcome.folder)
    for split in ("validation", "test"):
        texts, expected = unpacked(scores(outcome, split)["written"]), truths(getattr(opened.splits, split))
        bleu = sacrebleu.corpus_bleu(texts, [expected]).score
        assert outcome.metrics[f"{split}/bleu"] == pytest.approx(bleu, rel=1e-12) and 0 < bleu < 100
        scorer = RougeScorer(["rouge1", "rougeLsum"])
        rows = [scorer.score(truth, text) for truth, text in zip(expected, texts, strict=True)]
        for kind in ("rouge1", "rougeLsum"):
            assert outcome.metrics[f"{split}/{kind}"] == pytest.approx(np.mean([row[kind].fmeasure for row in rows]))
    # Each validation has written, and the best of them was chosen.
    curve = {line["step"]: line["value"] for line in read_metrics(outcome.folder) if line["name"] == "validation/bleu"}
    assert sorted(curve) == [15, 30, 45] and outcome.result["selected_step"] == max(curve, key=curve.get)
    assert max(curve.values()) == pytest.approx(outcome.metrics["validation/bleu"])
    predictions = read_predictions(outcome.folder, "test")
    for name in task.text_metrics:
        interval = intervals.measure(name, predictions, opened.ready.task)
        assert interval.low < outcome.metrics[f"test/{name}"] < interval.high
    page = (outcome.folder / "report.html").read_text()
    assert "BLEU" in page and "ROUGE-Lsum" in page
    # A judge may read every metric.
    judged = []
    how = replace(FILES, judge=lambda step, metrics: judged.append((step, metrics["bleu"])) or True)
    last = config.assign(config.assign(chosen, "train.select", "last"), "optim.lr", 3e-3)
    other = tlx.run(last, tmp_path / "other", how=how)
    assert [step for step, _ in judged] == [15, 30]
    (compared,) = compare_runs([outcome.folder, other.folder], "test/bleu")["comparisons"]
    difference = other.metrics["test/bleu"] - outcome.metrics["test/bleu"]
    assert compared["paired"] and compared["difference"] == pytest.approx(difference)
    assert compared["low"] < difference < compared["high"] and "bootstrap" in compared["method"]
