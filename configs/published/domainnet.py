"""Adapt a ResNet-101 between four domains of DomainNet, with the settings of Transfer-Learning-Library.

tlx run configs/published/domainnet.py                # DANN, clipart to painting
tlx study configs/published/domainnet.py              # twelve pairs, six methods

Not run here. Published accuracies in percent (docs/dalib/benchmarks/image_classification.rst; single runs; the
checkpoint is chosen on the training images of the target), from the first domain of the upper line to the second one
(clipart, painting, real, sketch):

                  c-p   c-r   c-s   p-c   p-r   p-s   r-c   r-p   r-s   s-c   s-p   s-r  mean
    source only  32.7  50.6  39.4  41.1  56.8  35.0  48.6  48.8  36.1  49.0  34.8  46.1  43.3
    DAN          38.8  55.2  43.9  45.9  59.0  40.8  50.8  49.8  38.9  56.1  45.9  55.5  48.4
    DANN         37.9  54.3  44.4  41.7  55.6  36.8  50.7  50.8  40.1  55.0  45.0  54.5  47.2
    CDAN         40.4  56.8  46.1  45.1  58.4  40.5  55.6  53.6  43.0  57.2  46.4  55.7  49.9
    MDD          42.9  59.5  47.5  48.6  59.4  42.6  58.3  53.7  46.2  58.7  46.5  57.7  51.8
    MCC          37.7  55.7  42.6  45.4  59.8  39.9  54.4  53.1  37.0  58.1  46.3  56.2  48.9

The data: `data/domainnet` with a folder for each domain, such as clipart/airplane/clipart_002_000001.jpg, and the lists
image_list/clipart_train.txt, image_list/clipart_test.txt, ... of the authors. The training list of the target is
trained on without labels; its test list is tested. The head of adaptation.py states what differs.
"""

from adaptation import arm, cdan, dan, dann, mcc, mdd, recipe_of, source_only

from tlx import Recipe, Study, choice, prod
from tlx.data import ImageList

DOMAINS = {"c": "clipart", "p": "painting", "r": "real", "s": "sketch"}
CLASSES = tuple(map(str, range(345)))
METHODS = {
    "source only": source_only(lr=0.01, epochs=20, epoch=2_500),
    "DAN": dan(width=1024, epochs=30, epoch=2_500),
    "DANN": dann(width=1024, epochs=30, epoch=2_500),
    "CDAN": cdan(projection=51_200, width=1024, epochs=30, epoch=2_500),
    "MDD": mdd(width=2048, epochs=40, epoch=5_000),
    "MCC": mcc(temperature=2.0, weight=10.0, width=2048, batch=32, epochs=30, epoch=2_500),
}


def _recipe(source: str, target: str, method: str) -> Recipe:
    train, test = (f"data/domainnet/image_list/{DOMAINS[name]}" for name in (source, target))
    return recipe_of(
        ImageList(f"{train}_train.txt", test_share=0.0, classes=CLASSES),
        ImageList(f"{test}_train.txt", validation=f"{test}_train.txt", test=f"{test}_test.txt", classes=CLASSES),
        "timm/resnet101.tv_in1k",
        METHODS[method],
    )


def recipe() -> Recipe:
    return _recipe("c", "p", "DANN")


def study() -> Study:
    pairs = [(a, b) for a in DOMAINS for b in DOMAINS if a != b]
    return Study(
        base=recipe(),
        cells=prod(
            choice("pair", {f"{a} to {b}": {"data": _recipe(a, b, "DANN").data} for a, b in pairs}),
            choice("method", {name: arm(_recipe("c", "p", name)) for name in METHODS}),
        ),
        question="Which methods of domain adaptation help between the domains of DomainNet?",
        baseline={"method": "source only"},
    )
