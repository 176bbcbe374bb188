"""Files of processors, images and sounds: refused by their form, never with the message of a library alone."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from tlx.files.documents import DocumentError
from tlx.processors.encoded import open_picture
from tlx.processors.files import check_tokenizer, open_tokenizer, read_preprocessor


@pytest.fixture
def form(tmp_path):
    raw = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.save(str(tmp_path / "tokenizer.json"))
    return json.loads((tmp_path / "tokenizer.json").read_text())


def test_a_complete_tokenizer_opens(form, tmp_path):
    assert open_tokenizer(tmp_path / "tokenizer.json").encode("a b").ids == [1, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda form: form.pop("model"), "model is missing"),
        (lambda form: form["model"].pop("vocab"), "model.vocab is missing"),
        (lambda form: form["model"]["vocab"].update(a="x"), "model.vocab.a is 'x'; expected a whole number"),
        (lambda form: form["model"]["vocab"].update(a=2), "model.vocab has the id 2 for 'a' and for 'b'"),
        (lambda form: form["model"].update(vocab={}), "model.vocab is empty"),
        (lambda form: form["model"].update(unk_token="none"), "model.unk_token is 'none'; expected a token"),
        (lambda form: form["model"].update(type="Word"), "model.type is 'Word'; expected one of 'WordPiece'"),
        (lambda form: form.update(pre_tokenizer={"type": "Spaces"}), "not a usable tokenizer"),
        (lambda form: form.update(pre_tokenizer=3), "pre_tokenizer is 3; expected an object"),
        (lambda form: form.update(added_tokens=[{"id": -1, "content": "x"}]), "added_tokens[0].id is -1"),
        (lambda form: form.update(added_tokens={}), "added_tokens is an object"),
        (lambda form: form.update(truncation={"max_length": "8"}), "truncation.max_length is '8'"),
    ],
)
def test_an_altered_tokenizer_is_refused(form, tmp_path, change, words):
    change(form)
    (tmp_path / "tokenizer.json").write_text(json.dumps(form))
    with pytest.raises(DocumentError) as error:
        check_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(error.value)
    assert words in str(error.value)


def test_a_truncated_tokenizer_is_refused(form, tmp_path):
    path = tmp_path / "tokenizer.json"
    content = path.read_bytes()
    for size in range(0, len(content) - 1, 97):
        path.write_bytes(content[:size])
        with pytest.raises(DocumentError, match=r"tokenizer\.json"):
            check_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("tokenizer_config.json", '{"do_lower_case": "yes"}', "do_lower_case is 'yes'; expected true or false"),
        ("tokenizer_config.json", '{"truncation_side": "lef"}', "expected one of 'left', 'right'"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"0": 3}}', "added_tokens_decoder.0 is 3"),
        ("special_tokens_map.json", '{"pad_token": 3}', "pad_token is 3"),
        ("added_tokens.json", '{"x": "1"}', "x is '1'"),
        ("vocab.txt", "", "is empty; expected one token per line"),
        ("merges.txt", "#version: 0.2\na b\nabc\n", "line 3 is 'abc'; expected two parts"),
    ],
)
def test_the_other_files_of_a_tokenizer_are_checked(form, tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(DocumentError) as error:
        check_tokenizer(tmp_path)
    assert str(tmp_path / name) in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": {"height": 100_000, "width": 8}}, "size.height is 100000; expected a whole number from 1 to 16384"),
        ({"do_resize": "no"}, "do_resize is 'no'; expected true or false"),
        ({"image_std": [0.5, 0]}, "image_std[1] is 0; expected a number above 0"),
        ({"resample": "bicubic"}, "resample is 'bicubic'; expected one of 0, 1, 2, 3"),
    ],
)
def test_a_preprocessor_of_another_form_is_refused(tmp_path, fields, words):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    with pytest.raises(DocumentError) as error:
        read_preprocessor(tmp_path)
    assert words in str(error.value)


def png(width, height, data=b""):
    """Return a PNG whose header states its size, whatever its data are."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("side", [9_500, 20_000, 2**31 - 1])
def test_an_image_bomb_is_refused_before_it_is_decoded(side):
    with pytest.raises(ValueError, match=r"bomb\.png (has|is damaged).*(89,478,485|complete image)") as error:
        open_picture(png(side, side, zlib.compress(bytes(1000))), "bomb.png")
    assert "\n" not in str(error.value)


def test_a_truncated_image_is_refused():
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(stream, "PNG")
    content = stream.getvalue()
    assert open_picture(content).size == (30, 20)
    for size in range(0, len(content) - 20, 101):
        with pytest.raises(ValueError, match=r"x\.png is (not a readable image|damaged)"):
            open_picture(content[:size], "x.png")
