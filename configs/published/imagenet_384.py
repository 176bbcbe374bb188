"""Fine-tune ViT-B/32, pretrained on ImageNet-21k, on ImageNet-1k at 384 pixels: the settings of big_vision.

tlx run configs/published/imagenet_384.py --set data.target=/data/imagenet

Not run here. Published: 83.27 % [83.22, 83.33] top-1 on the validation split, the mean and the range of five repeats
(big_vision, configs/transfer.py, ViT-Augreg-B/32, lr 0.03; the rate was chosen on 1 % of the training images).

The data: a folder with train/ and val/, each with a folder for each of the 1,000 classes; or a data set of TFDS that is
prepared as array_record, --set data.target=imagenet2012. The validation split is tested on (`test_on`), and 1 % of the
training images is held out, as there.

What differs: the new head starts from small random numbers, there from zero; pictures are resized bicubically before
the test crop, there by the mean over areas; all moments are float32, there bfloat16.
"""

from tlx import Data, Optim, Recipe, Train, Weights, tasks
from tlx.data import Flip, Folder, RandomResizedCrop


def recipe() -> Recipe:
    return Recipe(
        data=Data(
            target=Folder("data/imagenet"),
            test_on="validation",
            validation=0.01,
            size=384,
            before_crop=448,
            augment=(RandomResizedCrop(share=(0.05, 1.0), resample="bilinear"), Flip()),
        ),
        task=tasks.Classification(),
        weights=Weights("timm/vit_base_patch32_224.augreg_in21k", resize=384),
        optim=Optim("sgd", lr=0.03, warmup=0.025, clip=1.0),
        train=Train(steps=20_000, batch=512, eval_batch=512, eval_every=1_000),
    )
