"""The directories of pinned weights. Those that ship in another form are converted once, in the cache."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tlx import assets
from tlx import config as records
from tlx.files.unpacked import filled
from tlx.models import Pooled
from tlx.models.efficientnet import VARIANTS, EfficientNet
from tlx.models.names import inward
from tlx.processors import ImageProcessor
from tlx.tasks import Classification
from tlx.trees import Json
from tlx.weights.files import CONFIG, write_tensors
from tlx.weights.form import OWN
from tlx.weights.formats import Format
from tlx.weights.formats.efficientnet import package_names
from tlx.weights.stated import task_entries
from tlx.weights.torch_files import read_torch

# Counts the forms in which converted weights were written; another one is converted again.
FORM = 1
LITE = "efficientnet-lite0"
LITE_FILE = "efficientnet-lite0-57934424.pth"
NAMES = "imagenet1k_label_to_names.json"
# The layers were trained on (pixel - 127) / 128, as tests/weights/test_pinned.py infers from their statistics. The
# share of the picture that is cut out is that of the evaluation in TensorFlow, 224 / (224 + 32).
LITE_PROCESSOR = ImageProcessor(size=256, crop=(224, 224), mean=(127 / 255,), std=(128 / 255,), resample="bicubic")


def directory(name: str) -> Path:
    """Return the directory of the pinned weights `name`, with config.json; it is fetched and converted if needed."""
    folder = assets.extract(name)
    if (convert := CONVERTED.get(name)) is None:
        return folder
    return filled(folder.with_name(f"{folder.name}-form-{FORM}"), lambda target: convert(folder, target))


def convert_lite(folder: Path, target: Path) -> None:
    """Write EfficientNet-Lite0 from its file of torch."""
    config, head = VARIANTS["lite0"], Pooled(1000)
    tensors = read_torch(folder / LITE_FILE)
    arrays = {name.ours: inward(name, tensors[name.foreign]) for name in package_names(config, head)}
    write_tensors(target, {path: np.ascontiguousarray(array) for path, array in arrays.items()})
    document: Json = {"model_type": OWN, "model": records.dump(config), "outputs": head.outputs}
    document["architectures"] = [f"{EfficientNet.__name__}ForClassification"]
    document |= task_entries(Classification(classes=head.outputs, names=imagenet_names()), document, Format())
    (target / CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    LITE_PROCESSOR.save(target)


def imagenet_names() -> tuple[str, ...]:
    """Return the names of the 1,000 classes of ImageNet, each with its synonyms.

    Two classes have the name "crane" (a bird, a machine); such names get their number.
    """
    names = json.loads((assets.extract("imagenet-names") / NAMES).read_text(encoding="utf-8"))
    listed = [names[str(n)] for n in range(len(names))]
    return tuple(f"{name} ({n})" if listed.count(name) > 1 else name for n, name in enumerate(listed))


CONVERTED: dict[str, Callable[[Path, Path], None]] = {LITE: convert_lite}
