"""Adapt a ResNet-50 between the four domains of Office-Home, with the settings of Transfer-Learning-Library.

tlx run configs/published/office_home.py              # DANN, Art to Clipart
tlx study configs/published/office_home.py            # twelve pairs, six methods

Not run here. Published accuracies in percent (docs/dalib/benchmarks/image_classification.rst; single runs; the
checkpoint is chosen on the target), from the first domain of the upper line to the second one:

                 Ar-Cl Ar-Pr Ar-Rw Cl-Ar Cl-Pr Cl-Rw Pr-Ar Pr-Cl Pr-Rw Rw-Ar Rw-Cl Rw-Pr  mean
    source only   41.1  65.9  73.7  53.1  60.1  63.3  52.2  36.7  71.8  64.8  42.6  75.2  58.4
    DAN           45.6  67.7  73.9  57.7  63.8  66.0  54.9  40.0  74.5  66.2  49.1  77.9  61.4
    DANN          53.8  62.6  74.0  55.8  67.3  67.3  55.8  55.1  77.9  71.1  60.7  81.1  65.2
    CDAN          55.2  72.4  77.6  62.0  69.7  70.9  62.4  54.3  80.5  75.5  61.0  83.8  68.8
    MDD           56.2  75.4  79.6  63.5  72.1  73.8  62.5  54.8  79.9  73.5  60.9  84.5  69.7
    MCC           58.4  79.6  83.0  67.5  77.0  78.5  66.6  54.8  81.8  74.4  61.4  85.6  72.4

The data: `data/office-home` with the folders Art, Clipart, Product and Real_World, such as Art/Alarm_Clock/00001.jpg
(the archive has "Real World"; rename it). All images of the target are trained on without labels, and tested. The head
of adaptation.py states what differs.
"""

from adaptation import arm, cdan, dan, dann, mcc, mdd, recipe_of, source_only

from tlx import Recipe, Study, choice, prod
from tlx.data import Folder

DOMAINS = {"Ar": "Art", "Cl": "Clipart", "Pr": "Product", "Rw": "Real_World"}
METHODS = {
    "source only": source_only(),
    "DAN": dan(),
    "DANN": dann(epochs=30),
    "CDAN": cdan(epochs=30),
    "MDD": mdd(width=2048, epochs=30),
    "MCC": mcc(width=2048, epochs=30),
}


def _recipe(source: str, target: str, method: str) -> Recipe:
    train, test = (f"data/office-home/{DOMAINS[name]}" for name in (source, target))
    target_folder = Folder(test, validation=test, test=test)
    return recipe_of(Folder(train, test_share=0.0), target_folder, "timm/resnet50.tv_in1k", METHODS[method])


def recipe() -> Recipe:
    return _recipe("Ar", "Cl", "DANN")


def study() -> Study:
    pairs = [(a, b) for a in DOMAINS for b in DOMAINS if a != b]
    return Study(
        base=recipe(),
        cells=prod(
            choice("pair", {f"{a} to {b}": {"data": _recipe(a, b, "DANN").data} for a, b in pairs}),
            choice("method", {name: arm(_recipe("Ar", "Cl", name)) for name in METHODS}),
        ),
        question="Which methods of domain adaptation help between the domains of Office-Home?",
        baseline={"method": "source only"},
    )
