"""A tokenizer that cannot belong to a model is refused at loading; a token without an embedding when it occurs."""

import json
import logging

import jax
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from tokenizers import models as kinds
from tokenizers import processors as post

import tlx
from tlx import models, tasks
from tlx.predict import predict
from tlx.processors import TextProcessor, vocabulary
from tlx.weights import Manifest, Pretrained, export_pretrained, load_pretrained, save_pretrained
from tlx.weights.fitting import within

TASK = tasks.Classification(classes=2, names=("negative", "positive"))


def tokenizer(words=16, pair_type=1):
    """[PAD] [UNK] [CLS] [SEP] and the words w4, w5, ..."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(4, words))][:words]
    raw = Tokenizer(kinds.WordLevel({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = post.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B:{pair_type} [SEP]:{pair_type}",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return raw


def model(rows=16, raw=None, positions=12, tokens=10, **fields):
    config = models.Bert(vocabulary=rows, positions=positions, width=12, depth=1, heads=3, mlp=16, **fields)
    built = models.build(config, 2)
    rng = np.random.default_rng(0)
    tree = models.initialise(built, jax.random.key(0)).params
    params = jax.tree.map(lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(np.float32), tree)
    processor = TextProcessor(tokenizer() if raw is None else raw, tokens)
    return Pretrained(built, tlx.types.Variables(params, {}), processor, Manifest("random", {}, ()), TASK)


@pytest.mark.parametrize("rows", [16, 17, 24, 63, 64])
def test_an_embedding_may_have_unused_rows(tmp_path, rows):
    read = load_pretrained(save_pretrained(model(rows), tmp_path))
    assert read.processor.rows == rows and read.processor.type_rows == 2
    assert vocabulary.notes(read.processor) == []


@pytest.mark.parametrize("command", ["load", "predict", "export"])
@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        (5, 352, "the tokenizer has 5 entries, but the model has 352 word embeddings"),
        (16, 65, "the tokenizer has 16 entries, but the model has 65 word embeddings"),
        (
            400,
            352,
            "the tokenizer has 48 tokens beyond the model's 352 word embeddings (the last token is 'w399' "
            "with the id 399)",
        ),
        (16, 15, "the tokenizer has 1 tokens beyond the model's 15 word embeddings"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(tmp_path, words, rows, message, command):
    save_pretrained(model(rows, tokenizer(words)), tmp_path / "model")
    does = {
        "load": lambda: load_pretrained(tmp_path / "model"),
        "predict": lambda: predict(tmp_path / "model", ["w4"]),
        "export": lambda: export_pretrained(load_pretrained(tmp_path / "model"), tmp_path / "out"),
    }[command]
    with pytest.raises(ValueError, match="use the tokenizer that the model was trained with") as error:
        does()
    assert message in str(error.value) and str(tmp_path / "model") in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_command_line_prints_it_in_one_line(tmp_path):
    from click.testing import CliRunner

    from tlx.cli import main

    save_pretrained(model(352, tokenizer(5)), tmp_path / "model")
    for arguments in (
        ["predict", str(tmp_path / "model"), "w4"],
        ["export", str(tmp_path / "model"), str(tmp_path / "o")],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1 and "5 entries" in result.stderr and "352" in result.stderr


def test_a_vocabulary_far_smaller_than_the_embedding_is_noted(tmp_path, caplog):
    read = load_pretrained(save_pretrained(model(300, tokenizer(100)), tmp_path))
    [note] = vocabulary.notes(read.processor)
    assert "100 entries" in note and "300 word embeddings" in note
    with caplog.at_level(logging.WARNING):
        predict(tmp_path, ["w4"])
    assert note in caplog.text


def test_an_added_token_beyond_the_rows_is_noted_and_refused_in_a_text(tmp_path):
    raw = tokenizer()
    raw.add_tokens([AddedToken("<new>")])
    read = load_pretrained(save_pretrained(model(16, raw), tmp_path))
    [note] = vocabulary.notes(read.processor)
    assert "'<new>' (16)" in note
    assert len(predict(tmp_path, ["w4 w5", "strange"])) == 2
    with pytest.raises(ValueError, match="token '<new>' has the id 16") as error:
        predict(tmp_path, ["w4 w5", "w4 <new>"])
    assert "0 to 15" in str(error.value) and str(tmp_path) in str(error.value)


def test_a_special_token_beyond_the_rows_is_refused():
    raw = tokenizer()
    raw.add_special_tokens([AddedToken("<s>")])
    raw.post_processor = post.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 16)])
    with pytest.raises(ValueError, match="the last token is '<s>' with the id 16"):
        within(model(16, raw))
    with pytest.raises(ValueError, match=r"'\(padding\)' with the id 20"):
        vocabulary.check(TextProcessor(tokenizer(), 10, pad_id=20, rows=16))


def test_training_raises_the_same_error():
    from tlx.data import evaluation_batches, train_batches
    from tlx.data.examples import Examples
    from tlx.types import Column

    raw = tokenizer()
    raw.add_tokens([AddedToken("<new>")])
    processor = within(model(16, raw)).processor
    rows = [{"text": text, "label": 0} for text in ("w4", "w5 <new>", "w6")]
    columns = {"text": Column("text"), "label": Column("class", ("a", "b"))}
    examples = Examples("toy", "train", rows, columns)
    for read in (
        lambda: train_batches(examples, processor, batch=3, seed=0, buckets=(8,)),
        lambda: evaluation_batches(examples, processor, batch=3, buckets=(8,)),
    ):
        with pytest.raises(ValueError, match="token '<new>' has the id 16"):
            next(iter(read()))


def test_a_pair_has_no_types_if_the_model_reads_none(tmp_path):
    """As in `transformers`, by `model_input_names`."""
    two = {"text": "w4", "text_pair": "w5"}
    read = load_pretrained(save_pretrained(model(types=1), tmp_path / "one"))
    with pytest.raises(ValueError, match="the tokenizer produces the token type 1") as error:
        read.processor(two)
    assert "model_input_names" in str(error.value)
    assert read.processor({"text": "w4"})["token_type_ids"].tolist() == [0, 0, 0]
    file = tmp_path / "one" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_input_names": ["input_ids", "attention_mask"]}))
    reopened = load_pretrained(tmp_path / "one")
    assert reopened.processor(two)["token_type_ids"].tolist() == [0, 0, 0, 0, 0]
    none = load_pretrained(save_pretrained(model(types=0, family="distilbert"), tmp_path / "none"))
    assert none.processor(two)["token_type_ids"].tolist() == [0, 0, 0, 0, 0]
    save_pretrained(none, tmp_path / "again")
    stated = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert stated["model_input_names"] == ["input_ids", "attention_mask"]
    both = load_pretrained(save_pretrained(model(), tmp_path / "two"))
    assert both.processor(two)["token_type_ids"].tolist() == [0, 0, 0, 1, 1]


LONG = " ".join(["w4"] * 20 + ["w5"] * 20)


@pytest.mark.parametrize(
    ("stated", "positions", "family", "wanted"),
    [
        (None, 40, "bert", 40),
        (30, 40, "bert", 30),
        (512, 40, "bert", 40),
        (1e30, 40, "bert", 40),
        (None, 40, "roberta", 38),
        (40, 40, "roberta", 38),
        (200, 300, "bert", 200),
    ],
)
def test_a_text_is_truncated_at_the_length_of_the_tokenizer_or_the_model(tmp_path, stated, positions, family, wanted):
    pretrained = model(positions=positions, family=family, pad=1 if family == "roberta" else 0)
    save_pretrained(pretrained, tmp_path)
    file = tmp_path / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"model_max_length": stated}
    file.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))
    read = load_pretrained(tmp_path)
    assert read.processor.tokens == wanted
    assert len(read.processor({"text": LONG * 10})["input_ids"]) == wanted


def test_a_run_is_read_at_its_length_in_place_and_after_a_move(tmp_path, caplog):
    run, long = tmp_path / "run", "w4 " * 150 + "w5"
    pretrained = model(positions=400, tokens=300)
    save_pretrained(pretrained, run / "model")
    (run / "recipe.json").write_text(json.dumps({"recipe": {"data": {"tokens": 300}}}))
    export_pretrained(load_pretrained(run), tmp_path / "exported")
    stated = json.loads((tmp_path / "exported" / "tokenizer_config.json").read_text())
    assert stated["model_max_length"] == 300
    answers = [predict(place, [long]) for place in (run, tmp_path / "exported")]
    assert answers[0] == answers[1] and not caplog.text
    assert [load_pretrained(place).processor.tokens for place in (run / "model", tmp_path / "exported")] == [300, 300]
    with caplog.at_level(logging.WARNING):
        predict(run, ["w4 " * 400, "w4"])
    assert "1 text is longer than 300 tokens" in caplog.text


def test_a_run_of_an_earlier_version_keeps_its_length_when_it_is_exported(tmp_path):
    """Its model/ states the length of its initial checkpoint, or none."""
    run = tmp_path / "run"
    save_pretrained(model(positions=400, tokens=300), run / "model")
    (run / "recipe.json").write_text(json.dumps({"recipe": {"data": {"tokens": 300}}}))
    file = run / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 256}))
    assert load_pretrained(run).processor.tokens == 300
    export_pretrained(load_pretrained(run), tmp_path / "exported")
    assert load_pretrained(tmp_path / "exported").processor.tokens == 300
