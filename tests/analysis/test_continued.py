"""Continued pretraining: which texts each arm learns from, and a study that begins with its weights."""

from dataclasses import replace

import pytest

from tlx import Data, Optim, Train, Weights, models, tasks
from tlx.analysis.continued import ARMS, Continued, language_task


@pytest.fixture(scope="module")
def recipe(reviewed):
    train = Train(steps=4, batch=8, eval_batch=32, eval_every=4)
    recipe = replace(reviewed.recipe, weights=Weights(str(reviewed.folder.parent / "weights")), train=train)
    return replace(recipe, data=replace(recipe.data, shots=10), optim=Optim(lr=1e-3))


def test_each_arm_has_its_texts_its_weights_and_its_seed(recipe, tmp_path):
    plan = Continued(recipe=recipe, seeds=2, steps=3)
    cells = plan.study(tmp_path).cells
    assert [(cell.names["further pretraining"], cell.recipe.seed) for cell in cells] == [
        (arm, seed) for seed in (0, 1) for arm in ARMS
    ]
    recipes = plan.pretraining(tmp_path, 1)
    assert {cell.recipe.weights.source for cell in cells if cell.recipe.seed == 1} == {
        recipe.weights.source, *map(str, recipes)
    }  # fmt: skip
    of_task, of_domain, of_both = recipes.values()
    assert {item.seed for item in recipes.values()} == {1}
    # The subset of the task is drawn by the seed of the run, as in the runs of the task.
    assert of_task.data.shots == of_both.data.shots == 10 and of_domain.data.shots is None
    assert of_both.weights.source == str(next(path for path in recipes if path.name == "domain-1"))
    other = Continued(recipe=recipe, domain="sentiment/amazon").pretraining(tmp_path, 0)
    assert [item.data.target for item in other.values()][1] == "sentiment/amazon"


def test_an_architecture_continues_the_language_modelling_that_it_knows():
    assert isinstance(language_task(models.Bert()), tasks.MaskedLanguageModel)
    assert isinstance(language_task(models.Gpt2()), tasks.CausalLanguageModel)
    assert isinstance(language_task(models.T5()), tasks.Denoising)
    with pytest.raises(ValueError, match="Vit has no head over a vocabulary"):
        language_task(models.Vit())


def test_mistakes_are_named_in_one_line(recipe):
    whole = replace(recipe, data=Data(target=recipe.data.target, tokens=recipe.data.tokens))
    for make, words in (
        (lambda: Continued(recipe=whole), "name a data set"),
        (lambda: Continued(recipe=recipe, arms=("tapt",)), "'task', 'domain'"),
        (lambda: Continued(recipe=recipe, steps=0), "expected 1 or more"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            make()
        assert "\n" not in str(error.value)
