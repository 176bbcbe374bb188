"""A mixture of tasks: its texts and words, the order in which training draws them, and mistakes."""

from dataclasses import dataclass

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tlx import Data, config
from tlx.data import Arrays, Dataset, Member, Mixture, Source, Test, Where, load, train_batches
from tlx.data.members import BLOCK, MixedOrder, MixingRates, members_by_split
from tlx.data.pipeline import Order
from tlx.data.sources.combined import column_values
from tlx.processors import TextProcessor
from tlx.recipe import classes
from tlx.tasks import Classification, TextToText
from tlx.types import Column


def table(count, kind="class", word="w", **columns):
    texts = [f"{word}{n}" for n in range(count)]
    labels = {
        "class": ["yes" if n % 2 else "no" for n in range(count)],
        "text": [f"answer {n}" for n in range(count)],
        "number": [n / 2 for n in range(count)],
    }[kind]
    return Arrays({"text": texts, "label": labels, **columns}, text="text", label="label", label_kind=kind)


A, B, C = (
    Member(name="a", source=table(200)),
    Member(name="b", source=table(60, "text", "x"), prefix="answer this: "),
    Member(name="c", source=table(100, word="y")),
)
PICTURES = Arrays({"image": np.zeros((20, 4, 4), np.uint8), "label": ["yes", "no"] * 10}, image="image", label="label")
MIXTURE = Mixture((A, B, C), limit=100)


@dataclass(frozen=True, kw_only=True)
class Empty(Source):
    """A data set without training examples."""

    def open(self):
        columns = {"text": Column("text"), "label": Column("text")}
        return Dataset("empty", {"train": [], "test": [{"text": "a", "label": "b"}]}, columns, "empty")


def splits_of(mixture, **settings):
    return load(Data(target=mixture, **settings), seed=0)


def test_texts_have_the_prefix_of_their_task_and_labels_are_words():
    splits = splits_of(MIXTURE)
    # The table has no validation split: a tenth of the training examples of each member.
    assert splits.train.members.counts.tolist() == [144, 43, 72]
    assert splits.validation.members.counts.tolist() == [16, 5, 8]
    assert splits.test.members.counts.tolist() == [40, 12, 20]
    examples = {
        name: splits.test[int(np.flatnonzero(splits.test.members.numbers == number)[0])]
        for number, name in enumerate("abc")
    }
    assert examples["a"]["text"].startswith("a: w") and examples["a"]["label"] in ("yes", "no")
    assert examples["b"]["text"].startswith("answer this: x")
    assert examples["b"]["label"] == f"answer {examples['b']['text'].rpartition('x')[2]}"
    assert splits.columns["label"].kind == "text" and TextToText().resolve(splits.columns).names == ()
    with pytest.raises(ValueError, match=r"use tasks\.TextToText"):
        Classification().resolve(splits.columns)
    assert config.load(config.dump(MIXTURE), classes()) == MIXTURE
    # The rates are in the recipe, not in the fingerprint of the data, so tokens are made once for all rates.
    assert Mixture((A, B, C), rates="equal").open().fingerprint == MIXTURE.open().fingerprint
    assert Mixture((A, C, B)).open().fingerprint != MIXTURE.open().fingerprint


def test_a_pair_of_texts_becomes_one_text():
    pairs = Arrays({"text": ["one", "two"] * 10, "pair": ["eins", "zwei"] * 10, "label": ["yes", "no"] * 10},
                   text="text", text_pair="pair", label="label")  # fmt: skip
    member = Member(name="p", source=pairs, prefix="first: ", between=" second: ")
    texts = {example["text"] for example in splits_of(Mixture((member,))).train}
    assert texts == {"first: one second: eins", "first: two second: zwei"}


def test_each_member_is_the_same_in_every_mixture():
    whole, part = (splits_of(mixture) for mixture in (MIXTURE, MIXTURE.only(["c"])))
    for split in ("train", "validation", "test"):
        of_all, alone = whole.by_name.get(split, whole.train), part.by_name.get(split, part.train)
        chosen = np.flatnonzero(of_all.members.numbers == 2)
        assert [of_all[n]["text"] for n in chosen] == [example["text"] for example in alone]
        assert of_all.members.rows[chosen].tolist() == alone.members.rows.tolist()
    # The validation split is tested on, and other training examples are held out in its place.
    parts = [splits_of(mixture, test_on="validation") for mixture in (MIXTURE, MIXTURE.only(["c"]))]
    texts = [{row["text"] for row in part.validation if row["text"].startswith("c: ")} for part in parts]
    assert texts[0] == texts[1] and len(texts[0]) == 7
    few = [splits_of(mixture, shots=4).train for mixture in (MIXTURE, MIXTURE.only(["c"]))]
    assert few[0].members.counts.tolist() == [4, 4, 4]
    assert [few[0][n]["text"] for n in range(8, 12)] == [example["text"] for example in few[1]]
    orders = [MixedOrder(part.train.members, 3), MixedOrder(whole.train.members, 3)]
    texts = [
        [examples.train[n]["text"] for n in order(64, 0)[0] if examples.train.members.names[0] == "c" or n >= 187]
        for examples, order in zip((part, whole), orders, strict=True)
    ]
    assert texts[1] and texts[1] == texts[0][: len(texts[1])]


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, [144 / 259, 43 / 259, 72 / 259]),
        ({"limit": 72}, [72 / 187, 43 / 187, 72 / 187]),
        ({"limit": 72, "temperature": 2.0}, np.sqrt([72, 43, 72]) / np.sqrt([72, 43, 72]).sum()),
        ({"rates": "equal"}, [1 / 3] * 3),
        ({"rates": (2.0, 1.0, 1.0)}, [0.5, 0.25, 0.25]),
    ],
)
def test_training_draws_the_members_at_their_rates(settings, rates):
    train = splits_of(Mixture((A, B, C), **settings)).train
    np.testing.assert_allclose(train.members.rates, rates, rtol=1e-12)
    order = MixedOrder(train.members, seed=0)
    positions = np.concatenate([order(24, step)[0] for step in range(160)])
    for block in positions.reshape(-1, BLOCK):
        counts = np.bincount(train.members.numbers[block], minlength=3)
        assert np.abs(counts - BLOCK * np.array(rates)).max() <= 2
    # The members are mixed, not one after the other.
    assert len(set(train.members.numbers[positions[:16]])) > 1


def test_an_order_depends_on_the_seed_and_the_step_alone():
    members = splits_of(MIXTURE).train.members
    order, other = MixedOrder(members, 5), MixedOrder(members, 6)
    drawn = [order(40, step) for step in range(30)]
    # It resumes at any step, and a batch of another size cuts the same order.
    again = MixedOrder(members, 5)
    np.testing.assert_array_equal(again(40, 29), drawn[29])
    positions, epochs = np.concatenate(drawn, 1)
    np.testing.assert_array_equal(np.concatenate([again(24, step) for step in range(50)], 1), [positions, epochs])
    assert (np.concatenate([other(40, step)[0] for step in range(30)]) != positions).mean() > 0.9
    # The places of the members are drawn by the seed too.
    assert (members.numbers[other(BLOCK, 0)[0]] != members.numbers[order(BLOCK, 0)[0]]).any()
    # In each epoch of a member every one of its examples is drawn once.
    for number in range(3):
        own = members.numbers[positions] == number
        for epoch in range(int(epochs[own].max())):
            assert np.array_equal(
                np.sort(positions[own & (epochs == epoch)]), np.flatnonzero(members.numbers == number)
            )


def test_batches_of_a_mixture_are_drawn_by_length_too():
    train = splits_of(MIXTURE).train
    raw = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    raw.pre_tokenizer = Whitespace()
    processor = TextProcessor(raw, tokens=16)
    grouped = Order(train, processor, batch=8, seed=0, group=4)
    drawn = np.sort(np.concatenate([grouped(step)[0] for step in range(4)]))
    np.testing.assert_array_equal(drawn, np.sort(MixedOrder(train.members, 0)(32, 0)[0]))
    batch = next(train_batches(train, processor, batch=8, seed=0, buckets=(8, 16)))
    np.testing.assert_array_equal(batch["index"], train.rows[MixedOrder(train.members, 0)(8, 0)[0]])


def test_rows_of_one_member_can_be_chosen():
    chosen = Where(MIXTURE, column="member", values=("b",)).open()
    assert {example["text"][:11] for example in chosen.splits["test"]} == {"answer this"}
    assert set(column_values(MIXTURE.open().splits["test"], "member")) == {"a", "b", "c"}
    with pytest.raises(ValueError, match=r"'membr'.*'member'"):
        column_values(MIXTURE.open().splits["test"], "membr")


def test_a_member_without_a_test_split_is_left_out_of_the_test():
    rows = {"text": [f"u{n}" for n in range(40)], "label": ["yes", "no"] * 20}
    untested = Member(name="u", source=Arrays(rows, text="text", label="label", test_share=0.0))
    dataset = Mixture((untested, C)).open()
    test = dataset.splits["test"]
    assert test.members.counts.tolist() == [0, 20] and test[0]["text"].startswith("c: y")
    assert dataset.splits["train"].members.counts.tolist() == [36, 72]
    assert "the test examples have none of u, which has no labelled test split" in dataset.notes
    splits = splits_of(Mixture((untested,)), validation=0.5)
    assert "has no test split" in splits.untested and len(splits.validation) == 4


def test_only_a_test_set_with_the_same_members_is_measured_by_member():
    tests = (Test(name="others", source=MIXTURE.only(["c"])), Test(name="same", source=Mixture(MIXTURE.members)))
    splits = splits_of(MIXTURE, tests=tests)
    assert members_by_split(splits).keys() == {"labelled", "validation", "test", "same"}
    plain = splits_of(A.source, tests=(Test(name="mixed", source=table(20, "class")),))
    assert members_by_split(plain) == {} and plain.train.members is None


def test_folds_have_their_share_of_each_member():
    splits = splits_of(MIXTURE, folds=4)
    assert splits.test.members.counts.tolist() == [45, 14, 22] or abs(splits.test.members.counts.sum() - 81) < 2
    assert (splits.train.members.counts > 2.5 * splits.test.members.counts).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mixture(()), "no members"),
        (lambda: Mixture((A, Member(name="a", source="digits"))), "two members .* the name 'a'"),
        (lambda: Member(name="average", source="digits"), "'average'"),
        (lambda: Member(name="a/b", source="digits"), "'a/b'"),
        (lambda: Mixture((A, B), rates="even"), "'even'; expected 'proportional', 'equal'"),
        (lambda: Mixture((A, B), rates=(1.0,)), "for 2 members"),
        (lambda: Mixture((A, B), rates=(1.0, 0.0)), "above 0"),
        (lambda: Mixture((A, B), limit=0), "limit=0"),
        (lambda: Mixture((A, B), temperature=0.0), "temperature=0.0"),
        (lambda: Mixture((A, B), temperature=float("nan")), "temperature=nan"),
        (lambda: Mixture((A, B), rates="equal", limit=10), "limit=10 and rates='equal'"),
        (lambda: Mixture((A, B), validation=1.0), "validation=1.0"),
        (lambda: MIXTURE.only(["b", "d"]), "no member 'd'.*a, b, c"),
        (lambda: Mixture((A, Member(name="d", source=PICTURES))).open(), "'d'.*images; expected texts"),
        (
            lambda: Mixture((A, Member(name="d", source=table(20, "number")))).open(),
            "'number', which cannot be written",
        ),
        (lambda: Mixture((A, Member(name="d", source=Empty()))).open(), "'d'.*has no training examples"),
    ],
)
def test_mistakes_are_named_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_rates_without_examples_are_a_mistake():
    train = splits_of(MIXTURE).train
    with pytest.raises(ValueError, match="'b' of the mixture has no training examples left"):
        _ = train.view(np.flatnonzero(train.members.numbers != 1)).members.rates
    assert MixingRates("equal").of(np.array([5, 1])).tolist() == [0.5, 0.5]
