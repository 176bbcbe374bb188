"""The comparison: A(S,T) and the arms without source or target differ only in that."""

import dataclasses

import pytest

from tlx import Data, Weights, config, tasks, terms, tuning
from tlx.analysis.negative import negative_study
from tlx.analysis.negative.arms import in_role, source_only, transfer
from tlx.data import Dataset, Source
from tlx.objectives import Gate
from tlx.training.prepare import prepare
from tlx.types import Column
from tlx.updates import Alternating, Sum

SOURCE, LABELLED = terms.Supervised(on="source"), terms.Supervised()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lists(Source):
    """Lists of words of two classes."""

    name: str

    def open(self):
        rows = [{"words": [self.name, str(n)], "label": n % 2} for n in range(40)]
        columns = {"words": Column("words"), "label": Column("class", ("even", "odd"))}
        return Dataset(self.name, {"train": rows, "validation": rows, "test": rows}, columns, self.name)


def test_inputs_without_a_shift_are_refused_before_anything_is_trained(recipe):
    data = dataclasses.replace(recipe.data, target=Lists(name="a"), source=Lists(name="b"))
    words = dataclasses.replace(recipe, data=data)
    assert negative_study(words, labels=(0,), seeds=1).cells
    with pytest.raises(ValueError) as error:
        negative_study(words, labels=(0,), eps=(0.0, 0.5), seeds=1)
    assert all(part in str(error.value) for part in ("eps_x=0.5", "lists of words", "Data(shift=(...))"))


def by_arm(study):
    return {
        (cell.names["arm"], cell.names["source"], cell.names["labels"], cell.names["eps"], cell.names["seed"]): cell
        for cell in study.cells
    }


@pytest.mark.slow
def test_every_arm_exists_once_and_seeds_budgets_and_labels_are_paired(recipe):
    # Clothes are matched to digits by position.
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, match="position"))
    study = negative_study(recipe, sources=("mnist5k", "fashion_mnist"), labels=(0, 2), seeds=2)
    actual = by_arm(study)
    arms = [key[:4] for key in actual if key[4] == 0]
    assert arms == [
        *(
            arm
            for source in ("mnist5k", "fashion_mnist")
            for arm in (("A(S,T)", source, 0, 0.0), ("A(S,T)", source, 2, 0.0), ("source only", source, None, 0.0))
        ),
        ("target only", None, 2, None),
        ("A(0,T)", None, 2, None),
    ]
    assert len(actual) == 2 * len(arms)
    assert {cell.recipe.train.steps for cell in study.cells} == {8}
    transfer_arm, alone = (actual[name, source, 2, eps, 1].recipe for name, source, eps in (
        ("A(S,T)", "mnist5k", 0.0), ("A(0,T)", None, None),
    ))  # fmt: skip
    assert transfer_arm.objective == (SOURCE, terms.Dann(width=8), LABELLED)
    assert alone.objective == (LABELLED, terms.Dann(width=8, source="labelled"))
    differing = {path.partition(".")[0] if path.startswith("objective") else path
                 for path, _, _ in config.diff(transfer_arm, alone)}  # fmt: skip
    assert differing == {"data.source", "objective"}
    assert actual["source only", "mnist5k", None, 0.0, 0].recipe.objective == (SOURCE,)
    assert actual["target only", None, 2, None, 0].recipe.objective == (LABELLED,)


def test_steps_follow_from_the_largest_source(recipe):
    epochs = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=None, epochs=2.0))
    study = negative_study(epochs, labels=(0,), seeds=1)
    assert {cell.recipe.train.steps for cell in study.cells} == {438}
    assert {cell.recipe.train.eval_every for cell in study.cells} == {438}


def test_a_pretrained_network_is_also_trained_from_scratch(recipe):
    brings = dataclasses.replace(
        recipe, model=None, weights=Weights("runs/any"), tuning=tuning.Probe(), objective=(SOURCE, terms.Mcc())
    )
    actual = by_arm(negative_study(brings, labels=(2,), seeds=1))
    scratch = actual["from scratch", None, 2, None, 0].recipe
    assert scratch.weights.reset == (r".*",) and scratch.tuning == tuning.Full() and scratch.objective == (LABELLED,)
    assert actual["target only", None, 2, None, 0].recipe.tuning == tuning.Probe()


def test_a_rule_that_reads_the_source_is_left_out_without_a_source(recipe):
    train = dataclasses.replace(recipe.train, select="iwv", criteria=("snd", "dev"))
    actual = by_arm(negative_study(dataclasses.replace(recipe, train=train), labels=(2,), seeds=1))
    with_source, alone = (
        actual[key].recipe.train
        for key in (("A(S,T)", "mnist5k", 2, 0.0, 0), ("A(0,T)", None, 2, None, 0))
    )  # fmt: skip
    assert (with_source.select, with_source.criteria) == ("iwv", ("snd", "dev"))
    assert (alone.select, alone.criteria) == ("last", ("snd",))


def test_noise_applies_to_the_source_and_to_no_arm_without_one(recipe):
    def noise(inputs, eps):
        actual = by_arm(negative_study(inputs, labels=(2,), eps=eps, seeds=1))
        return {key[:4]: (cell.recipe.data.eps_x, cell.recipe.data.eps_y) for key, cell in actual.items()}

    recorded = noise(recipe, (0.0, 0.7))
    assert recorded["A(S,T)", "mnist5k", 2, 0.0] == (0.0, 0.0) and recorded["A(S,T)", "mnist5k", 2, 0.7] == (0.7, 0.7)
    assert recorded["source only", "mnist5k", None, 0.7] == (0.7, 0.7)
    assert recorded["A(0,T)", None, 2, None] == recorded["target only", None, 2, None] == (0.0, 0.0)
    # The settings of the recipe stay, unless the study varies them.
    noisy = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, eps_y=0.5))
    recorded = noise(noisy, (0.0,))
    assert recorded["A(S,T)", "mnist5k", 2, 0.0] == (0.0, 0.5) and recorded["A(0,T)", None, 2, None] == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"the recipe sets eps_y=0\.5, and eps is set as well"):
        noise(noisy, (0.0, 0.7))


def test_several_moves_per_step_apply_to_the_arms_with_such_terms(recipe):
    turning = dataclasses.replace(recipe, objective=(SOURCE, terms.Mcd()), update=Alternating())
    study = negative_study(turning, labels=(0, 2), seeds=1)
    recorded = {key[0]: type(cell.recipe.update) for key, cell in by_arm(study).items()}
    assert recorded == {"A(S,T)": Alternating, "A(0,T)": Alternating, "source only": Sum, "target only": Sum}
    for cell in study.cells:
        prepare(cell.recipe)


def test_there_is_one_evaluation_unless_a_rule_selects_a_checkpoint(recipe):
    judged = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, criteria=("snd",)))
    looks = [negative_study(inputs, seeds=1).base.train.eval_every for inputs in (recipe, judged)]
    assert looks == [8, 1]


def test_an_algorithm_without_a_further_term_is_not_run_twice(recipe):
    plain = dataclasses.replace(recipe, objective=(SOURCE,))
    arms = {key[0] for key in by_arm(negative_study(plain, labels=(2,), seeds=1))}
    assert arms == {"A(S,T)", "source only", "target only"}
    arms = {key[0] for key in by_arm(negative_study(plain, labels=(0,), seeds=1))}
    assert arms == {"A(S,T)"}


def test_terms_on_hidden_labels_are_left_out():
    assert transfer((SOURCE, LABELLED, terms.Mcc()), 0) == (SOURCE, terms.Mcc())
    assert transfer((SOURCE, LABELLED, terms.Mcc()), 0.1) == (SOURCE, LABELLED, terms.Mcc())
    assert transfer((Gate(),), 3) == transfer((Gate(),), 0) == (Gate(),)
    with pytest.raises(ValueError, match=r"no term learns from the source"):
        transfer((LABELLED, terms.Mcc()), 0)


def test_a_source_weighted_by_the_target_is_not_the_source_alone():
    assert source_only((terms.Kmm(), terms.Dann())) == (SOURCE,)
    assert source_only((terms.LabelSmoothing(on="source"), terms.Mcc())) == (terms.LabelSmoothing(on="source"),)
    assert in_role((terms.Kmm(),)) == (terms.Kmm(on="labelled"),)


def test_the_gate_without_a_source_gates_the_labelled_examples():
    (alone,) = in_role((Gate(),))
    assert alone.source == alone.labelled == "labelled" and not alone.knows(("labelled", "unlabelled"))
    assert alone.needs(("labelled", "unlabelled")).forward == ("labelled", "unlabelled")


@pytest.mark.parametrize(
    ("changes", "inputs", "message"),
    [
        ({"data": Data(target="digits")}, {}, "there is no source"),
        ({"task": tasks.Regression()}, {}, r"for tasks.Classification, not Regression"),
        ({}, {"labels": (0, 0)}, "one value appears twice"),
        ({}, {"labels": ()}, "labels is empty"),
        ({}, {"eps": (1.5,)}, "eps is 1.5; expected a share"),
        ({}, {"seeds": 0}, "seeds is 0"),
        ({"objective": (SOURCE, terms.M3sda())}, {}, "M3sda uses several sources together"),
        ({}, {"sources": ("digits",)}, "source and target are both 'digits'"),
        ({}, {"sources": ("mnist5",)}, "mnist5k"),
        ({"objective": (LABELLED,)}, {}, "no term learns from the source"),
    ],
)
def test_studies_without_a_comparison_are_refused(recipe, changes, inputs, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        negative_study(dataclasses.replace(recipe, **changes), **inputs)
