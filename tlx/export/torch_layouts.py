"""Export a model to timm or torchvision: their layouts, written, opened again and compared."""

from pathlib import Path

import numpy as np

from tlx import config
from tlx.export.markdown import block
from tlx.export.temperature import folded
from tlx.processors import ImageProcessor
from tlx.weights import Pretrained, load_pretrained, save_pretrained
from tlx.weights.export import PROGRAM_ADVICE, TOLERANCE, answers, sample
from tlx.weights.form import inserted

FORMS = ("timm", "torchvision")
# The library of a form, and how it rounds the margin of a crop.
ROUNDINGS = {"huggingface": ("transformers", "transformers"), "timm": ("timm", "torchvision")}
WORDS = {
    "timm": "timm opens this directory, and so does tlx (`tlx predict`, `tlx.load_pretrained`).",
    "torchvision": "The tensors have the names of torchvision's network with the same sizes: its `load_state_dict` "
    "takes what `safetensors.torch.load_file` returns. The files do not describe the architecture, so tlx needs it.",
}


def write_torch_layout(pretrained: Pretrained, directory: Path, layout: str) -> tuple[str, list[str | None]]:
    """Write a model in the layout of timm or torchvision; return how to use it, and notes.

    Raises:
        ValueError: The layout has no form for the model or its processor, or the model has an adapter.
    """
    if leaves := sorted(inserted(pretrained)):
        raise ValueError(
            f"the model has an adapter that cannot be merged into plain weights ({leaves[0]!r}, ...), and {layout} has "
            f"no form for it. {PROGRAM_ADVICE}"
        )
    scaled = folded(pretrained, layout)
    save_pretrained(scaled, directory, layout=layout)
    reopened = load_pretrained(directory, scaled.task, model=scaled.model.config)
    inputs = sample(scaled)
    outputs, again = answers(scaled, inputs), answers(reopened, inputs)
    if not np.allclose(outputs, again, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(outputs).max()))):
        raise ValueError(
            f"{directory}: the saved model computes other outputs than the original model; please report this"
        )
    use = f"{WORDS[layout]}\n\n{block(chr(10).join(lines(pretrained, layout)), 'python')}"
    return use, [rounding_note(pretrained, layout)]


def lines(pretrained: Pretrained, layout: str) -> list[str]:
    """Return lines of Python that open an exported directory."""
    if layout == "timm":
        return ["import timm", "", 'model = timm.create_model("local-dir:.", pretrained=True).eval()']
    architecture = config.source(pretrained.model.config)
    return [
        "import tlx",
        "from tlx import models",
        "",
        f'pretrained = tlx.load_pretrained(".", model=models.{architecture})',
    ]


def rounding_note(pretrained: Pretrained, form: str) -> str | None:
    """Return a note if the library of a form cuts the middle of an image in another place than the processor."""
    processor = pretrained.processor
    if form not in ROUNDINGS or not isinstance(processor, ImageProcessor) or processor.rounding == ROUNDINGS[form][1]:
        return None
    if processor.crop is None or processor.crop == processor.size:
        return None
    return f"{ROUNDINGS[form][0]} cuts the middle of some images one pixel away from the place where tlx cuts it"
