"""CSV files: columns, classes and splits are detected or named; every error names the file, the line and the column."""

import numpy as np
import pytest

from tlx.data import Csv, Data, load, notes, open_dataset
from tlx.types import Column

HEADER = "id,body,stars\n"
ROWS = "".join(f'{n},"number {n}, or so",{1 + n % 3}\n' for n in range(60))


@pytest.fixture
def write(tmp_path):
    def write(content, name="reviews.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return str(path)

    return write


def test_columns_are_named_or_detected_and_reported(write):
    path = write(HEADER + ROWS)
    named, detected = Csv(path, text="body", label="stars").open(), Csv(path).open()
    assert named.columns == detected.columns == {"text": Column("text"), "label": Column("class", ("1", "2", "3"))}
    assert named.name == "reviews.csv" and named.notes == ()
    assert detected.notes == ("columns of reviews.csv: text is 'body', label is 'stars'; not used: 'id'",)
    data = Data(target=Csv(path))
    splits = load(data, 0)
    assert detected.notes[0] in notes(data, splits, 8)
    assert splits.train[0].keys() == {"text", "label", "index"}
    assert splits.train[0]["text"].startswith("number ")


def test_one_file_is_split_by_class_in_the_same_way_each_time(write):
    source = Csv(write(HEADER + ROWS))
    splits = load(Data(target=source), 0)
    sizes = [np.bincount(part.labels()).tolist() for part in (splits.train, splits.validation, splits.test)]
    assert sizes == [[14] * 3, [2] * 3, [4] * 3]
    texts = [{part[n]["text"] for n in range(len(part))} for part in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*texts)) == 60
    assert load(Data(target=source), 1).fingerprint == splits.fingerprint
    train_only = Csv(source.path, test_share=0.0).open()
    assert train_only.splits.keys() == {"train"} and len(train_only.splits["train"]) == 60


def test_split_files_share_their_classes(write):
    train, test = write(HEADER + "0,good,yes\n1,bad,no\n"), write("stars,body\nmaybe,so so\nyes,fine\n", "test.csv")
    with pytest.raises(ValueError, match=r"test.csv line 2: the class 'maybe'.*1 row.*classes="):
        Csv(train, test=test).open()
    source = Csv(train, test=test, classes=("maybe", "no", "yes"))
    dataset = source.open()
    assert dataset.classes == ("maybe", "no", "yes")
    assert [dataset.splits["test"][n] for n in range(2)] == [
        {"text": "so so", "label": 0, "index": 0},
        {"text": "fine", "label": 2, "index": 1},
    ]
    assert dataset.splits["train"].labels().tolist() == [2, 1]


def test_a_fingerprint_depends_on_content_and_settings(write, tmp_path):
    first = Csv(write(HEADER + ROWS)).open().fingerprint
    (tmp_path / "there").mkdir()
    assert Csv(write(HEADER + ROWS, "there/copy.csv")).open().fingerprint == first
    assert Csv(write(HEADER + ROWS + "60,another,1\n", "more.csv")).open().fingerprint != first
    assert Csv(write(HEADER + ROWS), label_kind="number").open().fingerprint != first


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_quotes_line_breaks_byte_order_marks_and_delimiters(write, delimiter):
    text = f'he said ""no""{delimiter}\nthen left'
    content = f'body{delimiter}stars\r\n"{text}"{delimiter}a\r\n\r\nplain\u2028line{delimiter}b\r\n'
    dataset = Csv(write(b"\xef\xbb\xbf" + content.encode()), test_share=0.0).open()
    train = dataset.splits["train"]
    assert [train[n]["text"] for n in (1, 0)] == ["plain\u2028line", f'he said "no"{delimiter}\nthen left']
    assert dataset.classes == ("a", "b")


def test_another_encoding_and_quote_can_be_named(write):
    path = write("body;stars\n'caf\xe9; noir';a\nth\xe9;b\n", encoding="latin-1")
    with pytest.raises(
        ValueError, match=r"reviews.csv line 2 is not valid utf-8 \(byte 0xe9 at 4\).*encoding='latin-1'"
    ):
        Csv(path, quote="'").open()
    dataset = Csv(path, quote="'", encoding="latin-1", test_share=0.0).open()
    assert dataset.splits["train"][0]["text"] == "caf\xe9; noir"


def test_numbers_several_classes_and_tags(write):
    numbers = Csv(write("text,score\na,1\nb,0.5\n")).open()
    assert numbers.columns["label"] == Column("number") and numbers.splits["train"].labels().dtype == np.float32
    topics = Csv(write("text,topics\na,sport; news\nb,\nc,news\n", "t.csv"), label="topics", separator=";").open()
    assert topics.columns["label"] == Column("classes", ("news", "sport"))
    rows = {example["text"]: example["label"] for split in topics.splits.values() for example in split}
    assert rows == {"a": [1, 0], "b": [], "c": [0]}
    tags = Csv(write("tokens,ner\nAnna sees Bonn,PER O LOC\nyes,O\n", "n.csv"), words="tokens", test_share=0.0).open()
    assert tags.columns == {"words": Column("words"), "label": Column("tags", ("LOC", "O", "PER"))}
    assert tags.splits["train"][0] == {"words": ["Anna", "sees", "Bonn"], "label": [2, 1, 0], "index": 0}


def test_text_pairs_are_detected(write):
    dataset = Csv(write("premise,hypothesis,label\na,b,x\nc,d,y\n"), test_share=0.0).open()
    assert dataset.splits["train"][0] == {"text": "a", "text_pair": "b", "label": 0, "index": 0}


def test_rows_without_a_label_are_named_or_left_out(write):
    path = write(HEADER + "0,a,x\n1,b, \n2,c,y\n")
    with pytest.raises(ValueError, match=r"reviews.csv line 3: 'stars' is empty, as in 1 of 3 rows.*missing='drop'"):
        Csv(path).open()
    dataset = Csv(path, missing="drop", test_share=0.0).open()
    assert [example["text"] for example in dataset.splits["train"]] == ["a", "c"]
    assert "1 rows of reviews.csv have no label in 'stars' and are not used" in dataset.notes


def test_nan_and_inf_are_names_of_classes_where_the_kind_says_so(write):
    path = write(HEADER + "0,a,nan\n1,b,2\n2,c,10\n3,d,inf\n")
    assert Csv(path, label_kind="class", test_share=0.0).open().classes == ("10", "2", "inf", "nan")
    words = write(HEADER + "0,a,nan\n1,b,naan\n", "bread.csv")
    assert Csv(words, test_share=0.0).open().classes == ("naan", "nan")


def test_a_changed_file_is_read_again(write):
    path = write(HEADER + ROWS)
    before = open_dataset(Csv(path)).fingerprint
    write(HEADER + ROWS.replace("number", "Nummer"))
    assert open_dataset(Csv(path)).fingerprint != before


@pytest.mark.parametrize(
    ("content", "fields", "parts"),
    [
        ("", {}, ("reviews.csv", "is empty")),
        (HEADER, {}, ("reviews.csv", "no rows")),
        (HEADER + ROWS, {"text": "bdy"}, ("reviews.csv line 1", "'bdy'", "'body'")),
        (HEADER + ROWS, {"label": "Stars"}, ("line 1", "'Stars'", "'stars'")),
        (HEADER + "0,a,x,y\n", {}, ("line 2", "4 cells", "header has 3")),
        (HEADER + '0,a,x\n1,"b\nc', {}, ("line 3", "quotes")),
        ("a,body,a\n", {}, ("line 1", "'a'")),
        ("body\nx\n", {}, ("line 1", "['body']", "delimiter")),
        ("one,two,three\n1,2,3\n", {}, ("line 1", "column of the label", "label='...'")),
        ("one,two,label\n1,2,3\n", {}, ("line 1", "column of the text", "text='...'")),
        (HEADER + "0,a,x\n1,b\0,y\n", {}, ("line 3", "NUL")),
        (HEADER + "0,a,1.5\n1,b,nan\n", {"label_kind": "number"}, ("line 3", "'stars' is 'nan'")),
        (HEADER + "0,a,1\n1,b,2\n2,c,nan\n", {}, ("line 4", "is 'nan'", "missing='drop'", "label_kind='class'")),
        (HEADER + "0,a,1.5\n1,b,-inf\n", {}, ("line 3", "'stars' is '-inf'", "finite number")),
        (HEADER + "0,a,1.5\n1,b,1e300\n", {"label_kind": "number"}, ("line 3", "'1e300'", "float32")),
        (HEADER + "0,a,\n1,b, \n", {"missing": "drop"}, ("'stars'", "empty in all 2 rows", "id, body, stars")),
        (HEADER + "0,a,\n1,b,;\n", {"separator": ";"}, ("no cell of 'stars' names a class", "2 rows", "classes=")),
        (HEADER + "0,a,good\n1,b,god\n", {"classes": ("good", "bad")}, ("line 3", "'god'", "'good'")),
        (HEADER + "".join(f"{n},text,name{n}\n" for n in range(300)), {}, ("300 different labels", "300 rows")),
        ("\ufeffbody,stars\n".encode("utf-16-le"), {}, ("UTF-16", "iconv")),
        (HEADER + ROWS, {"encoding": "utf-9"}, ("utf-9", "utf-8")),
    ],
)  # fmt: skip
def test_errors_name_the_file_the_line_and_the_column(write, content, fields, parts):
    with pytest.raises(ValueError) as error:
        Csv(write(content), **fields).open()
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"test_share": 1.0}, "test_share=1.0"),
        ({"missing": "skip"}, "missing='skip'"),
        ({"label_kind": "klass"}, "label_kind='klass'"),
        ({"label_kind": "tags"}, "words=..."),
        ({"label_kind": "classes"}, "separator"),
        ({"words": "a", "text": "b"}, "only one"),
        ({"delimiter": ";;"}, "delimiter=';;'"),
    ],
)
def test_invalid_settings_are_refused(fields, part):
    with pytest.raises(ValueError) as error:
        Csv("x.csv", **fields)
    assert part in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone.csv"):
        Csv(str(tmp_path / "gone.csv")).open()
    with pytest.raises(IsADirectoryError, match="is a directory"):
        Csv(str(tmp_path)).open()


def test_the_delimiter_divides_the_first_rows(write):
    rows = "".join(f"text {n}, long\t{'ab'[n % 2]}\n" for n in range(20))
    for name in ("x.tsv", "x.TSV"):
        path = write(f"review, full\tlabel\n{rows}", name)
        assert Csv(path).tables()["train"].names == ("review, full", "label")
    # The same content under another name is another table; here both delimiters fit.
    assert Csv(write(f"review, full\tlabel\n{rows}", "x.csv")).tables()["train"].names == ("review", "full\tlabel")
    rows = "".join(f"text {n};{'ab'[n % 2]}\n" for n in range(20))
    table = Csv(write(f"review, full, all;label\n{rows}", "y.csv")).tables()["train"]
    assert table.names == ("review, full, all", "label")


def test_line_ends_without_a_line_feed_are_named(write):
    with pytest.raises(ValueError) as error:
        Csv(write("text,label\ra,b\rc,d\r", "mac.csv")).open()
    assert all(part in str(error.value) for part in ("mac.csv", "\\r", "tr ")), error.value
