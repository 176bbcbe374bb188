"""A user's file, with which a run of schema 1 was written."""

from dataclasses import dataclass

from tlx import Data, Recipe, Train, models, tasks, tuning
from tlx.types import Learn, Phase


@dataclass(frozen=True, kw_only=True)
class LastTwo(tuning.Tuning):
    """The last two stages learn."""

    lr: float = 0.5

    def phases(self, model):
        names = [stage.name for stage in model.stages][-2:]
        return (Phase(1.0, (*((f"{name}/.*", Learn(lr=self.lr)) for name in names), (r".*", None))),)


def recipe():
    return Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(4, 4)),
        tuning=LastTwo(),
        train=Train(steps=2, batch=8),
    )
