"""Lists of class names: the same classes, another order, placeholders, different classes."""

import pytest

from tlx import tasks
from tlx.tasks.classes import Match, contradictions, format_names, match, placeholder
from tlx.types import Column

SAME, SWAPPED = Match((0, 1)), Match((1, 0))


@pytest.mark.parametrize(
    ("stored", "wanted", "expected"),
    [
        (("no", "yes"), ("no", "yes"), SAME),
        (("no", "yes"), ("yes", "no"), SWAPPED),
        (("a", "b", "c"), ("c", "a", "b"), Match((2, 0, 1))),
        # Case, white space and Unicode form do not matter, unless two classes differ in nothing else.
        (("No", "YES "), ("yes", "no"), SWAPPED),
        (("New York", "Paris"), ("paris", "new  york"), SWAPPED),
        (("ﬁne", "bad"), ("bad", "fine"), SWAPPED),
        (("a", "A"), ("A", "a"), SWAPPED),
        (("a", "A"), ("a ", "A "), Match(None)),
        # Numbers count as names if both lists have them.
        (("0", "1"), ("1", "0"), SWAPPED),
        (("LABEL_0", "LABEL_1"), ("LABEL_1", "LABEL_0"), SWAPPED),
        (("LABEL_0", "LABEL_1"), ("label_1", "label_0"), SWAPPED),
        # Placeholders match any name.
        (("LABEL_0", "LABEL_1"), ("no", "yes"), Match((0, 1), (0, 1))),
        (("no", "yes"), ("class 0", "class 1"), Match((0, 1), (0, 1))),
        (("0", "1"), ("zero", "one"), Match((0, 1), (0, 1))),
        (("LABEL_0", "LABEL_1"), ("0", "1"), Match((0, 1), (0, 1))),
        (("b", "a", "c"), ("a", "b", "class 2"), Match((1, 0, 2), (2,))),
        (("a", "b", "c"), ("a", "b", "class 2"), Match((0, 1, 2), (2,))),
        # A placeholder with another number is a name that is not in the other list.
        (("LABEL_1", "LABEL_0"), ("no", "yes"), Match(None)),
        (("b", "c", "a"), ("a", "b", "class 2"), Match(None)),
        # Different classes.
        (("no", "yes"), ("bad", "good"), Match(None)),
        (("no", "yes"), ("no", "maybe"), Match(None)),
        (("a", "b", "c"), ("a", "b"), Match(None)),
        (("a", "b"), ("a", "b", "c"), Match(None)),
        (("a", "a"), ("a", "b"), Match(None)),
    ],
)
def test_classes_are_matched_by_name(stored, wanted, expected):
    assert match(stored, wanted) == expected
    assert expected.moves == (expected.take is not None and list(expected.take) != sorted(expected.take))


@pytest.mark.parametrize("name", ["LABEL_2", "label 2", "Class-2", "class2", "2", " 02 "])
def test_placeholders_are_recognised_by_their_number(name):
    assert placeholder(name, 2) and not placeholder(name, 1)


@pytest.mark.parametrize("name", ["2nd", "two", "grade 2", "LABEL_", ""])
def test_other_names_are_not_placeholders(name):
    assert not placeholder(name, 2)


def test_long_lists_are_shortened_in_messages():
    assert format_names([str(n) for n in range(14)]).endswith("10, 11, ... and 2 more)")


@pytest.mark.parametrize(
    ("data", "names", "strange"),
    [
        (("no", "yes"), ("yes", "no"), ["yes", "no"]),
        (("no", "yes"), ("Yes", "No"), ["Yes", "No"]),
        (("no", "yes"), ("bad", "good"), []),
        (("no", "yes"), ("no", "good"), []),
        (("a", "b", "c"), ("b", "x", "c"), ["b"]),
        (("a", "b"), ("other", "a", "b"), ["a", "b"]),
        (("0", "1", "2"), ("1", "2", "3"), []),
        (("0", "1"), ("1", "0"), ["1", "0"]),
    ],
)
def test_a_task_may_rename_classes_but_not_swap_them(data, names, strange):
    assert contradictions(data, names) == strange
    task = tasks.Classification(classes=len(names), names=names)
    if not strange:
        assert task.resolve({"label": Column("class", data)}).names == names
        return
    with pytest.raises(ValueError) as error:
        task.resolve({"label": Column("class", data)})
    for part in (format_names(data), format_names(names), repr(strange[0])):
        assert part in str(error.value)


def test_a_duplicate_name_is_refused():
    with pytest.raises(ValueError, match=r"names lists 'a' twice: \(a, a\)"):
        tasks.Classification(names=("a", "a"))
