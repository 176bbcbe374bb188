"""Adapt a ResNet-101 from rendered to real images of VisDA-2017, with the settings of Transfer-Learning-Library.

tlx run configs/published/visda.py                    # DANN
tlx study configs/published/visda.py                  # six methods

Not run here. Published means over the accuracies of the twelve classes (`balanced_accuracy`) in percent, and the
accuracy (docs/dalib/benchmarks/image_classification.rst; the adversarial methods are means of three runs, the others
single runs; the checkpoint is chosen on the target):

    source only 51.7, 56.9    DAN 66.4, 67.2    DANN 79.5, 74.9    CDAN 80.1, 76.5    MDD 82.0, 79.8    MCC 83.6, 80.4

The data: `data/visda-2017` with the folders train and validation of the archives, such as train/aeroplane/1.png. All
images of the target are trained on without labels, and tested. Images are cut in the middle, in training too. The head
of adaptation.py states what differs.
"""

from adaptation import arm, cdan, dan, dann, mcc, mdd, recipe_of, source_only

from tlx import Recipe, Study, choice
from tlx.data import Flip, Folder

METHODS = {
    "source only": source_only(epochs=20, epoch=1_000),
    "DAN": dan(),
    "DANN": dann(epochs=30),
    "CDAN": cdan(epochs=30),
    "MDD": mdd(epochs=30, batch=36),
    "MCC": mcc(temperature=3.0, lr=2e-3, epochs=30),
}


def _recipe(method: str) -> Recipe:
    train, test = "data/visda-2017/train", "data/visda-2017/validation"
    source, target = Folder(train, test_share=0.0), Folder(test, validation=test, test=test)
    return recipe_of(source, target, "timm/resnet101.tv_in1k", METHODS[method], augment=(Flip(),))


def recipe() -> Recipe:
    return _recipe("DANN")


def study() -> Study:
    return Study(
        base=recipe(),
        cells=choice("method", {name: arm(_recipe(name)) for name in METHODS}),
        question="Which methods of domain adaptation help from rendered to real images?",
        baseline={"method": "source only"},
        metric="test/balanced_accuracy",
    )
