"""The settings of Transfer-Learning-Library, shared by office31.py, office_home.py, visda.py and domainnet.py.

They are those of its scripts in examples/domain_adaptation/image_classification: SGD with Nesterov momentum 0.9, weight
decay in the gradient of every parameter, a tenth of the rate below the hidden layer ("bottleneck") and the classifier,
and the rate lr (1 + gamma i) ** -0.75 at step i. A checkpoint is chosen at each of its epochs by the accuracy on the
target ("oracle"), as there; `--set train.select=last` measures what a user without labels would get.

What differs, for every data set: the discriminators of DANN and CDAN have no batch norm, and their biases no decay; of
the two classifiers of MDD one is linear and one has a hidden layer, there both have a hidden layer with dropout; new
layers start as torch's do, there some start from normal numbers.
"""

from typing import Any, NamedTuple

from tlx import Data, Learn, Optim, Recipe, Train, Weights, models, tasks, terms, tuning
from tlx.data import Flip, RandomResizedCrop, Resize, Source

# Pictures are made square first, then a part is cut.
CROPS = (Resize(size=256), RandomResizedCrop(resample="bilinear"), Flip())


class Method(NamedTuple):
    """The settings of a method: its `term`, the `width` of the hidden layer (None for none), the learning rate and its
    fall `gamma`, the weight decay, the number of epochs and of steps in each, and the batch of each domain.

    With `joint` the batches of both domains are normalised together.
    """

    term: Any = None
    width: int | None = 256
    lr: float = 0.01
    gamma: float = 1e-3
    decay: float = 1e-3
    epochs: int = 20
    epoch: int = 1_000
    batch: int = 32
    joint: bool = True
    dropout: float = 0.0


def reversal(method: Method, end: float = 1.0) -> terms.Ramp:
    """Return the factor of the reversed gradient, end (2 / (1 + exp(-i / 1000)) - 1) at step i."""
    return terms.Ramp(0.0, end, shape="sigmoid", steepness=method.epochs * method.epoch / 1_000)


def source_only(**changes: Any) -> Method:
    return Method(**{"width": None, "lr": 1e-3, "gamma": 3e-4, "decay": 5e-4, "epochs": 5, "epoch": 500} | changes)


def dan(**changes: Any) -> Method:
    fields = {"lr": 3e-3, "gamma": 3e-4, "decay": 5e-4, "epoch": 500, "joint": False} | changes
    return Method(term=terms.Mmd(linear=True), **fields)


def dann(**changes: Any) -> Method:
    method = Method(**changes)
    return method._replace(term=terms.Dann(width=1024, reversal=reversal(method)))


def cdan(projection: int | None = None, **changes: Any) -> Method:
    method = Method(**changes)
    term = terms.Cdan(width=1024, entropy=False, projection=projection, reversal=reversal(method))
    return method._replace(term=term)


def mcc(temperature: float = 2.5, weight: float = 1.0, **changes: Any) -> Method:
    fields = {"lr": 5e-3, "batch": 36} | changes
    return Method(term=terms.Mcc(temperature=temperature, weight=weight), **fields)


def mdd(**changes: Any) -> Method:
    method = Method(**{"lr": 4e-3, "gamma": 2e-4, "decay": 5e-4, "width": 1024, "dropout": 0.5} | changes)
    return method._replace(term=terms.Mdd(width=1024, reversal=reversal(method, 0.1)))


def recipe_of(source: Source, target: Source, network: str, method: Method, augment: Any = CROPS) -> Recipe:
    """Return the recipe of a method from one domain to another. `network` is the name of the pretrained weights."""
    steps = method.epochs * method.epoch
    neck = None if method.width is None else models.Neck(width=method.width, dropout=method.dropout)
    new = Learn(weight_decay=method.decay)
    return Recipe(
        data=Data(source=source, target=target, labels=0, size=224, before_crop=(256, 256), augment=augment),
        task=tasks.Classification(neck=neck),
        weights=Weights(network),
        tuning=tuning.Rules((r"(neck|head)/.*", new), (r".*", new._replace(lr=0.1))),
        objective=(terms.Supervised(on="source"), *(() if method.term is None else (method.term,))),
        optim=Optim(
            "sgd",
            lr=method.lr,
            weight_decay=method.decay,
            nesterov=True,
            coupled=True,
            schedule="inverse",
            inverse_scale=method.gamma * steps,
        ),
        train=Train(
            steps=steps,
            batch=method.batch,
            eval_every=method.epoch,
            select="oracle",
            statistics="joint" if method.joint and method.term is not None else "stream",
        ),
    )


def arm(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe in which methods differ, for a cell of a study."""
    return {name: getattr(recipe, name) for name in ("task", "tuning", "objective", "optim", "train")}
