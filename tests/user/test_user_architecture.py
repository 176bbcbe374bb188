"""A user-defined architecture, built from the layers of tlx."""

import pytest

FILE = '''
from dataclasses import dataclass

import jax.numpy as jnp

from tlx import Data, Optim, Recipe, Train, models, tasks, tuning
from tlx.layers import as_dtype, declare_dense, dense, example
from tlx.models import Architecture, Pooled
from tlx.types import Field, Model, Stage


@dataclass(frozen=True, kw_only=True)
class TwoLayers(Architecture):
    """A hidden layer of `width` units over small images. Stages: `stem`, `head`."""

    supported_heads = (Pooled,)

    side: int = 8
    width: int = 16

    def input_fields(self):
        return {"image": Field((self.side, self.side, 1), "float32")}

    def build(self, head):
        size = self.side * self.side

        def stem(params, stats, carry, context):
            image = example(carry, "image", (self.side, self.side, 1))
            x = as_dtype(image.reshape(len(image), size), context)
            hidden = jnp.maximum(dense(params, x, context), 0)
            return {"hidden": hidden, "pooled": hidden}, stats

        def classifier(params, stats, carry, context):
            return carry | {"logits": dense(params, carry["pooled"], context, 1).astype(jnp.float32)}, stats

        params = {"stem": declare_dense(size, self.width, (None, "width"))}
        stages = [Stage("stem", stem, others=("pooled",))]
        if head is not None:
            params["head"] = declare_dense(self.width, head.outputs, ("width", None))
            stages.append(Stage("head", classifier, "logits"))
        return Model(tuple(stages), params, {}, self, head)


def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(),
        model=TwoLayers(),
        tuning=tuning.Lora(on="stem", rank=2),
        optim=Optim(lr=3e-3),
        train=Train(steps=6, batch=8, eval_every=3),
    )
'''


@pytest.mark.slow
def test_a_user_defined_architecture_supports_all_steps(check_recipe):
    """Use LoRA in the dense layer: it reads the inserted parameters as in the models of tlx."""
    artifacts = check_recipe(FILE, "optim.lr", (1e-3, 1e-2))
    assert (artifacts.folder / "adapter").is_dir()
