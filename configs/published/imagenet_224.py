"""Fine-tune ViT-B/16, pretrained as a masked autoencoder, on ImageNet-1k at 224 pixels: the settings of MAE for timm.

tlx run configs/published/imagenet_224.py --set data.target=/data/imagenet

Not run here. Published: 83.57 % top-1 on the validation split, standard deviation 0.08, the mean of four seeds (83.63,
83.66, 83.52, 83.46; FINETUNE.md of the MAE repository, whose network, augmentation and mixup are those of timm).

The data: a folder with train/ and val/, each with a folder for each of the 1,000 classes; or a data set of TFDS that is
prepared as array_record, --set data.target=imagenet2012. The validation split is tested on (`test_on`).

What differs: the head reads the class token, there the mean over the tokens (the authors report similar results); each
step trains on the batch mixed in both ways with half the weight each, there in one of them, chosen at random; the
strength of RandAugment is fixed, there it varies by half a level, and the strengths are those of torchvision; class
token and positions have weight decay; the last norm has the rate of the last block; 1 % of the training images is held
out, because a run needs a validation split.
"""

from tlx import Data, Optim, Recipe, Train, Weights, tasks, terms, tuning
from tlx.data import Flip, Folder, RandAugment, RandomErasing, RandomResizedCrop


def recipe() -> Recipe:
    return Recipe(
        data=Data(
            target=Folder("data/imagenet"),
            test_on="validation",
            validation=0.01,
            size=224,
            before_crop=256,
            augment=(
                RandomResizedCrop(),
                RandAugment(count=2, magnitude=9),
                Flip(),
                RandomErasing(probability=0.25, fill="noise"),
            ),
        ),
        task=tasks.Classification(smoothing=0.1),
        weights=Weights("timm/vit_base_patch16_224.mae", stochastic_depth=0.1),
        tuning=tuning.Full(decay=0.65),
        objective=(terms.Mixup(alpha=0.8, weight=0.5), terms.CutMix(alpha=1.0, weight=0.5)),
        optim=Optim(lr=2e-3, weight_decay=0.05, warmup=0.05),
        train=Train(epochs=100, batch=1024, eval_batch=512),
    )
