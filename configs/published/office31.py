"""Adapt a ResNet-50 between the three domains of Office-31, with the settings of Transfer-Learning-Library.

tlx run configs/published/office31.py                 # DANN, amazon to webcam
tlx run configs/published/office31.py --set data.source.path=data/office31/dslr \
    --set "data.target=Folder('data/office31/amazon', validation='data/office31/amazon', test='data/office31/amazon')"
tlx study configs/published/office31.py               # six pairs, six methods

Not run here. Published accuracies in percent (docs/dalib/benchmarks/image_classification.rst; the adversarial methods
are means of three runs, the others single runs; the checkpoint is chosen on the target):

                 A to W   D to W   W to D   A to D   D to A   W to A   mean
    source only    75.8     95.5     99.0     79.3     63.6     63.8   79.5
    DAN            84.2     98.4    100.0     87.3     66.9     65.2   83.7
    DANN           91.4     97.9    100.0     83.6     73.3     70.4   86.1
    CDAN           93.8     98.5    100.0     89.9     73.4     70.4   87.7
    MDD            95.6     98.6    100.0     94.4     76.6     72.2   89.6
    MCC            94.1     98.4     99.8     95.6     75.5     74.2   89.6

The data: `data/office31` with the folders amazon, dslr and webcam of the archive, such as
amazon/images/back_pack/frame_0001.jpg. All images of the target are trained on without labels, and tested. The head of
adaptation.py states what differs.
"""

from adaptation import arm, cdan, dan, dann, mcc, mdd, recipe_of, source_only

from tlx import Recipe, Study, choice, param, prod
from tlx.data import Folder

DOMAINS = {"A": "amazon", "D": "dslr", "W": "webcam"}
METHODS = {
    "source only": source_only(),
    "DAN": dan(),
    "DANN": dann(),
    "CDAN": cdan(),
    "MDD": mdd(),
    "MCC": mcc(width=1024, epoch=500),
}


def _recipe(source: str, target: str, method: str) -> Recipe:
    train, test = (f"data/office31/{DOMAINS[name]}" for name in (source, target))
    target_folder = Folder(test, validation=test, test=test)
    return recipe_of(Folder(train, test_share=0.0), target_folder, "timm/resnet50.tv_in1k", METHODS[method])


def recipe() -> Recipe:
    return _recipe("A", "W", "DANN")


def study(seeds: int = 3) -> Study:
    pairs = [(a, b) for a in DOMAINS for b in DOMAINS if a != b]
    return Study(
        base=recipe(),
        cells=prod(
            choice("pair", {f"{a} to {b}": {"data": _recipe(a, b, "DANN").data} for a, b in pairs}),
            choice("method", {name: arm(_recipe("A", "W", name)) for name in METHODS}),
            param("seed", range(seeds)),
        ),
        question="Which methods of domain adaptation help between the domains of Office-31?",
        baseline={"method": "source only"},
    )
