r"""Fine-tune a ResNet-50 of ImageNet on the 19 tasks of VTAB-1k: the light protocol of Zhai et al. (2019).

tlx study configs/published/vtab.py      # four settings for each task, on 800 examples
tlx run configs/published/vtab.py --set optim.lr=0.1 \
    --set "data.target=ImageList('data/vtab-1k/svhn/train800val200.txt',
    validation='data/vtab-1k/svhn/val200.txt', test='data/vtab-1k/svhn/test.txt')"     # one task, on all 1,000 examples

Not run here. Published accuracies in percent with 1,000 examples (docs/data/results.csv of task_adaptation), for a
ResNet-50 v2 trained with all labels of ImageNet ("Sup-100%") and for the same network from scratch:

    caltech101 91.0, 38.2    cifar 57.0, 13.2           dtd 66.0, 20.6             oxford_flowers102 88.6, 40.2
    oxford_iiit_pet 89.9, 12.1   sun397 34.4, 5.0       svhn 87.3, 66.1            patch_camelyon 80.6, 75.6
    eurosat 95.3, 85.0       resisc45 80.8, 42.6        diabetic_retinopathy 73.2, 72.6   clevr_count 41.0, 38.8
    clevr_dist 56.1, 55.2    dmlab 36.3, 26.6           kitti 70.6, 42.7           dsprites_loc 85.7, 78.4
    dsprites_ori 46.0, 39.2  smallnorb_azi 45.7, 30.1   smallnorb_ele 35.4, 37.6   mean 66.37, 43.14

The protocol: SGD with momentum 0.9, batches of 512, no warm-up, no weight decay, images of 224 pixels without
augmentation; learning rate 0.1 or 0.01, and 2,500 or 10,000 steps, with a tenth of the rate from 0.3, 0.6 and 0.9 of
the steps on. The best of the four on the 200 validation examples is trained again on all 1,000 examples.
The README of task_adaptation has the rate 0.01 and 2,500 steps, and its results state four settings; the other rate and
length are those of the paper as we know it, and were not checked against its text.

The data: the folder `data/vtab-1k` in its usual form, with the lists train800.txt, val200.txt, train800val200.txt and
test.txt in a folder for each task. A data set of TFDS with one label also runs by name, with other examples than the
published ones: --set data.target=svhn_cropped --set data.shots=100.

What differs: the network is ResNet-50 v1.5 of torchvision, because tlx does not read modules of TF Hub, with its
normalisation of the colours; in the run on 1,000 examples the validation split is a part of the training split.
"""

from dataclasses import replace

from tlx import Data, Optim, Recipe, Study, Train, Weights, choice, param, prod, tasks
from tlx.data import ImageList

CLASSES = {
    "caltech101": 102, "cifar": 100, "dtd": 47, "oxford_flowers102": 102, "oxford_iiit_pet": 37, "sun397": 397,
    "svhn": 10, "patch_camelyon": 2, "eurosat": 10, "resisc45": 45, "diabetic_retinopathy": 5, "clevr_count": 8,
    "clevr_dist": 6, "dmlab": 6, "kitti": 4, "dsprites_loc": 16, "dsprites_ori": 16, "smallnorb_azi": 18,
    "smallnorb_ele": 9,
}  # fmt: skip


def _source(task: str, train: str) -> ImageList:
    """Return a task with the examples of the list `train`."""
    folder = f"data/vtab-1k/{task}"
    classes = tuple(map(str, range(CLASSES[task])))
    return ImageList(
        f"{folder}/{train}.txt", validation=f"{folder}/val200.txt", test=f"{folder}/test.txt", classes=classes
    )


def recipe() -> Recipe:
    return Recipe(
        data=Data(target=_source("caltech101", "train800val200"), size=224),
        task=tasks.Classification(),
        weights=Weights("timm/resnet50.tv_in1k"),
        optim=Optim("sgd", lr=0.01, schedule="steps", boundaries=(0.3, 0.6, 0.9)),
        train=Train(steps=2_500, batch=512, eval_every=500),
    )


def study() -> Study:
    base = recipe()
    return Study(
        base=replace(base, data=replace(base.data, target=_source("caltech101", "train800"))),
        cells=prod(
            choice("task", {task: {"data.target": _source(task, "train800")} for task in CLASSES}),
            param("optim.lr", 0.1, 0.01),
            param("train.steps", 2_500, 10_000),
        ),
        question="Which of the four settings of the light protocol is best on the validation examples of each task?",
        baseline={"optim.lr": 0.01, "train.steps": 2_500},
        metric="validation/accuracy",
    )
