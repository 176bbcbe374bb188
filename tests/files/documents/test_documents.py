"""Documents are read with limits and checked by form: one line that names file, place, and both values."""

import json

import numpy as np
import pytest

from tlx.files.documents import DocumentError, check, parse_json, read_arrays, read_json, read_lines, records
from tlx.files.documents import models as model_forms
from tlx.files.documents.checks import Either, Flag, Mapped, OneOf, Real, Record, Rows, Text, Whole, format_value, maybe

FORM = Record(
    {"width": Whole(1)},
    {"rate": Real(0, 1), "names": Rows(Text()), "size": Either((Whole(1), Record({"height": Whole(1)})))},
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b"   \n", "is empty"),
        (b"{", "is not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        (b"[]", "the document is []; expected an object"),
        (b"{}", "width is missing; expected a whole number, 1 or more"),
        (b'{"widht": 3}', "width is missing; expected a whole number, 1 or more; close: 'widht'"),
        (b'{"width": true}', "width is true; expected a whole number, 1 or more"),
        (b'{"width": 2.0}', "width is 2.0; expected a whole number"),
        (b'{"width": 99999999999}', "width is 99999999999; expected a whole number"),
        (b'{"width": 1, "rate": "x"}', "rate is 'x'; expected a number from 0 to 1"),
        (b'{"width": 1, "rate": 1.5}', "rate is 1.5; expected a number from 0 to 1"),
        (b'{"width": 1, "names": ["a", 3]}', "names[1] is 3; expected a string"),
        (b'{"width": 1, "names": {}}', "names is an object with 0 entries; expected a list"),
        (b'{"width": 1, "size": {"height": 0}}', "size.height is 0; expected a whole number, 1 or more"),
        (b'{"width": 1, "size": []}', "size is []; expected a whole number, 1 or more or an object with 'height'"),
        (b'{"width": 1, "width": 2}', "the key 'width' occurs twice, with the values 1 and 2"),
        (b'{"width": 1, "rate": NaN}', "the document contains NaN"),
        (b'{"width": 1, "rate": 1e999}', "the document contains 1e999"),
        (b'{"width": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b"[" * 100_000, "nested too deeply; expected at most 64 levels"),
        (b'{"width": 1, "more": ' + b"[" * 80 + b"]" * 80 + b"}", "nested too deeply"),
        (b'\xef\xbb\xbf{"width": 1}', "begins with a byte order mark"),
        ('{"width": 1}'.encode("utf-16"), "is not UTF-8 text (byte 0xff at 0)"),
        (b'{"width": 1, "name": "\\ud800"}', "half a character"),
    ],
)
def test_each_error_is_one_line_with_the_file_both_values_and_what_to_do(tmp_path, text, words):
    path = tmp_path / "some.json"
    path.write_bytes(text)
    with pytest.raises(DocumentError) as error:
        read_json(path, FORM, remedy="copy it again")
    message = str(error.value)
    assert message.startswith(str(path))
    assert words in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300


def test_valid_documents_are_read_unchanged(tmp_path):
    document = {"width": 3, "rate": 1, "names": ["a"], "size": {"height": 2}, "more": [None, {"x": 1.5}]}
    (tmp_path / "some.json").write_text(json.dumps(document))
    assert read_json(tmp_path / "some.json", FORM) == document
    assert parse_json(b'{"width": 1, "width": 1}', "some.json", FORM) == {"width": 1}


def test_a_directory_a_missing_file_and_a_large_one_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory; expected a file"):
        read_json(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_json(tmp_path / "none.json")
    (tmp_path / "some.json").write_text("{}" + " " * 100)
    with pytest.raises(DocumentError, match="has 102 bytes; expected at most 50"):
        read_json(tmp_path / "some.json", most_bytes=50)


def test_forms_state_the_expected_value():
    assert maybe(Flag()).wants == "true or false or null"
    assert Rows(Whole(1), 2, 2).wants == "a list of 2 values, each a whole number, 1 or more"
    assert Real(0, 1, above=True).wants == "a number above 0, at most 1"
    assert not Real(0, above=True).fits(0)
    assert not Real().fits(10**400)
    assert Real(finite=False).fits(float("nan"))
    assert not OneOf((1, 2)).fits(True)
    with pytest.raises(DocumentError, match="side is 'lef'; expected one of 'left', 'right'"):
        check({"side": "lef"}, Record({"side": OneOf(("left", "right"))}), "x.json")
    with pytest.raises(DocumentError, match="a key of names is 'x'; expected digits"):
        check({"names": {"x": "a"}}, Record({"names": Mapped(Text(), Text(r"\d+", "digits"))}), "x.json")
    assert format_value({"a": 1}) == "an object with 1 entries"
    assert len(format_value("x" * 1000)) == 80


def test_an_incomplete_last_line_is_ignored_and_any_other_is_refused(tmp_path):
    path, form = tmp_path / "lines.jsonl", Record({"step": Whole()})
    assert read_lines(path, form) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_lines(path, form) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"st\n{"step": "x"}\n{"step": 2}\n')
    with pytest.raises(DocumentError, match=r"lines\.jsonl line 2 is not JSON"):
        read_lines(path, form)
    assert read_lines(path, form, skip_damaged=True) == [{"step": 1}, {"step": 2}]


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_damaged_arrays_are_refused(tmp_path):
    path, dims = tmp_path / "test.npz", {"logits": 2, "labels": 1}
    good = {"logits": np.zeros((3, 2), np.float32), "labels": np.zeros(3, np.int32)}
    assert read_arrays(npz(path, **good), dims).keys() == good.keys()
    content = path.read_bytes()
    for damaged in (b"", content[:50], content[:-30], b"x" * 90, content[:100] + b"\xff" * 40 + content[140:]):
        path.write_bytes(damaged)
        with pytest.raises(DocumentError, match=r"test\.npz"):
            read_arrays(path, dims)
    for name, array, words in (
        ("labels", np.zeros((3, 1), np.int32), "labels is int32[3, 1]; expected numbers in 1 dimensions"),
        ("labels", np.zeros(4, np.int32), "labels has 4 rows, but the other arrays have 3"),
        ("labels", np.array(["a", "b", "c"]), "labels is <U1[3]; expected numbers"),
        ("logits", np.full((3, 2), np.nan, np.float32), "logits contains numbers that are not finite"),
        ("logits", np.array([object()] * 3), "test.npz"),
    ):
        np.savez(path, **(good | {name: array}))
        with pytest.raises(DocumentError) as error:
            read_arrays(path, dims)
        assert words in str(error.value)
    with pytest.raises(DocumentError, match="contains logits; expected an array 'labels'"):
        read_arrays(npz(path, logits=good["logits"]), dims)


@pytest.mark.parametrize("kind", model_forms.FIELDS)
def test_every_field_of_a_config_has_a_type(kind):
    """No field of a model accepts an object or a boolean instead of a number or a name."""
    form = model_forms.form(kind)
    for name, field in (form.required | form.optional).items():
        wrong = 7 if kind == "tlx" and name == "model" else [{"a": None}] if name != "architectures" else {"a": 1}
        assert list(field.faults(wrong, name)), name


def test_a_point_between_initial_and_trained_weights_has_numbers_only():
    point = records.MOVED.required["line"]
    good = {"share": 0.5, "loss": {"value": 1.0, "low": None}, "accuracy": {"value": float("nan")}}
    assert list(point.faults([good], "line")) == []
    for wrong in (0.5, {}, {"value": [[1]]}, {"value": 0.5, "low": "x"}):
        assert list(point.faults([good | {"accuracy": wrong}], "line")), wrong
