"""No source trains on the rows that its target is measured on, whatever the settings of both are."""

import pandas as pd
import pytest

from tlx.data import Concat, Csv, Data, Frame, Where, load
from tlx.functional.selection import SOURCE

COUNT = 60
ROWS = pd.DataFrame(
    {
        "text": [f"the review of number {n}, or so" for n in range(COUNT)],
        "label": ["a", "b", "c"] * (COUNT // 3),
        "language": [("en", "de")[n % 2] for n in range(COUNT)],
    }
)
READ = {"text": "text", "label": "label"}


@pytest.fixture
def path(tmp_path):
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    ROWS.assign(text=[f"another {text}" for text in ROWS["text"]]).to_csv(tmp_path / "other.csv", index=False)
    return str(tmp_path / "rows.csv")


OVERLAPPING = {
    "test_share": lambda path: Data(target=Csv(path, test_share=0.4, **READ), source=Csv(path, **READ)),
    "where": lambda path: Data(
        target=Csv(path, test_share=0.4, **READ), source=Where(Csv(path, **READ), column="language", values=("de",))
    ),
    "validation": lambda path: Data(
        target=Csv(path, **READ), source=Where(Csv(path, **READ), column="language", values=("de",))
    ),
    "concat": lambda path: Data(
        target=Csv(path, **READ),
        source=Concat((path.replace("rows.csv", "other.csv"), Csv(path, test_share=0.0, **READ))),
    ),
    "folds": lambda path: Data(
        target=Csv(path, **READ), source=Where(path, column="label", values=("a", "b", "c")), folds=5, fold=1
    ),
    "frame": lambda path: Data(
        target=Where(Frame(ROWS, **READ), column="language", values=("de",)),
        source=Frame(ROWS, label_kind="class", **READ),
    ),
}


@pytest.mark.parametrize("case", OVERLAPPING)
@pytest.mark.parametrize("test", [True, False])
def test_a_source_with_held_out_rows_of_the_target_is_refused(case, test, path):
    with pytest.raises(ValueError) as error:
        load(OVERLAPPING[case](path), 0, test=test)
    assert all(part in str(error.value) for part in ("same data", "examples of the target", "Where(")), error.value


def test_the_first_row_is_named(path):
    other = path.replace("rows.csv", "other.csv")
    target = Concat((Csv(other, **READ), Csv(path, **READ)))
    with pytest.raises(ValueError, match=r"validation examples.*rows\.csv line \d+"):
        load(Data(target=target, source=Csv(path, test_share=0.0, **READ)), 0)


def test_rows_apart_are_a_source_and_a_target(path):
    german, english = (Where(Csv(path, **READ), column="language", values=(name,)) for name in ("de", "en"))
    for data in (
        Data(target=german, source=english),
        Data(target=german, source=english, folds=3),
        Data(target=Csv(path, **READ), source=path.replace("rows.csv", "other.csv")),
        Data(target=german, source=Where(Csv(path, test_share=0.5, **READ), column="language", without=("de",))),
    ):
        splits = load(data, 0, aside=[SOURCE])
        assert len(splits.streams["source"])


def test_equal_rows_may_be_left_out(path):
    data = Data(target=Csv(path, test_share=0.4, **READ), source=Csv(path, **READ), drop_duplicates=True)
    splits = load(data, 0)
    held_out = {example["text"] for part in (splits.test, splits.validation) for example in part}
    assert not held_out & {example["text"] for example in splits.streams["source"]}
    with pytest.raises(ValueError, match="same data"):
        load(data, 0, aside=[SOURCE])
