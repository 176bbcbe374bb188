"""Answers to questions, as SQuAD has them, from files, folders of `datasets`, and memory."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from tlx.data import Arrays, Csv, HfDataset, Jsonl, Parquet
from tlx.processors.columns import answers_of
from tlx.types import Column

CONTEXTS = ["Anna saw 北京 in May.", "Bob is in Rome; Rome is old."]
ANSWERS = [
    {"text": ["北京", "Anna"], "answer_start": [9, 0]},
    {"text": [], "answer_start": []},
    {"text": ["Rome"], "answer_start": [16]},
]
ROWS = [
    {"id": str(n), "question": f"What is {n}?", "context": CONTEXTS[min(n % 3, 1)], "answers": ANSWERS[n % 3]}
    for n in range(30)
]


def parquet(folder, rows=ROWS, name="squad.parquet"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / name)
    return str(folder / name)


def jsonl(folder, rows=ROWS):
    file = folder / "squad.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


def hub(folder):
    parquet(folder, ROWS[:20], "hub/plain_text/train-00000-of-00001.parquet")
    parquet(folder, ROWS[20:], "hub/plain_text/validation-00000-of-00001.parquet")
    return str(folder / "hub")


def csv(folder):
    text = "\n".join(f"{row['question']}\t{row['context']}\t{json.dumps(row['answers'])}" for row in ROWS)
    (folder / "squad.tsv").write_text(f"question\tcontext\tanswers\n{text}\n", encoding="utf-8")
    return str(folder / "squad.tsv")


SOURCES = {
    "jsonl": lambda folder: Jsonl(jsonl(folder)),
    "parquet": lambda folder: Parquet(parquet(folder)),
    "hub": lambda folder: HfDataset(hub(folder)),
    "arrays": lambda folder: Arrays({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "csv": lambda folder: Csv(csv(folder), text="question", text_pair="context", label="answers", delimiter="\t"),
    # Newer versions of `datasets` write a list of answers.
    "list": lambda folder: Parquet(parquet(folder, [row | {"answers": each(row["answers"])} for row in ROWS])),
}


def each(answers):
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    return [{"text": text, "answer_start": start} for text, start in pairs]


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_has_the_same_questions_and_answers(name, tmp_path):
    dataset = SOURCES[name](tmp_path).open()
    assert dataset.columns == {"text": Column("text"), "text_pair": Column("text"), "label": Column("answers")}
    examples = [example for part in dataset.splits.values() for example in part]
    by_question = {example["text"]: example for example in examples}
    assert len(by_question) == 30
    for row in ROWS:
        example = by_question[row["question"]]
        assert (example["text_pair"], example["label"]) == (row["context"], row["answers"])


@pytest.mark.parametrize(
    ("answers", "parts"),
    [
        ({"text": ["Anna"], "answer_start": [3]}, ("line 2", "'Anna'", "character 3", "begins at character 0")),
        ({"text": ["Peking"], "answer_start": [9]}, ("line 2", "'Peking'", "does not contain it")),
        ({"text": ["Anna"], "answer_start": [-1]}, ("line 2", "character -1")),
        ({"text": [""], "answer_start": [0]}, ("line 2", "empty lists for no answer")),
        ({"text": ["Anna"], "answer_start": []}, ("line 2", "1 texts and 0 numbers")),
        ({"text": ["Anna"], "answer_start": ["0"]}, ("line 2", "'answers'", '"answer_start": [0, ...]')),
        (None, ("line 2", "'answers' is empty")),
    ],
)
def test_answers_that_are_not_in_their_text_are_named_with_their_row(answers, parts, tmp_path):
    rows = [ROWS[0], {"question": "Who?", "context": CONTEXTS[0], "answers": answers}, *ROWS[2:]]
    with pytest.raises(ValueError) as error:
        # As before a run.
        Jsonl(jsonl(tmp_path, rows), test_share=0.0).open().splits["train"].check_labels()
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value), error.value


def test_answers_need_a_question_and_a_context(tmp_path):
    with pytest.raises(ValueError, match=r"kind answers.*text='question', text_pair='context'"):
        Jsonl(jsonl(tmp_path), text="question", label="answers").open()
    with pytest.raises(ValueError, match=r"row 3: 'answers' is 17"):
        answers_of(17, Column("answers"), "answers", "row 3")
