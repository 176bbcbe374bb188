"""Write the section of a model card that shows how to load the model, with code that runs in the directory."""

from collections.abc import Sequence

from tlx.export.inputs import Preparation
from tlx.export.markdown import block, code, items, plain
from tlx.export.program import ABOUT, LOADER, PROGRAM, Written
from tlx.export.temperature import temperature_of
from tlx.models import Architecture, PerToken, Span, architectures
from tlx.tasks import Task
from tlx.weights import Pretrained
from tlx.weights.form import OWN, written_kind

# How to turn the logits of a `problem_type` into probabilities.
PROBABILITIES = {
    "single_label_classification": 'jax.nn.softmax(outputs["logits"])',
    "multi_label_classification": 'jax.nn.sigmoid(outputs["logits"])',
}
# The pipeline of transformers by the kind of input, for a head on the whole example.
PIPELINES = {"text": "text-classification", "image": "image-classification", "audio": "audio-classification"}


def pipeline_of(pretrained: Pretrained) -> str | None:
    """Return the pipeline of transformers for a model; None if it has no head, or one that no pipeline reads."""
    processor, task = pretrained.processor, pretrained.task
    if processor is None or task is None:
        return None
    if isinstance(pretrained.model.head, PerToken):
        # The pipeline for questions about texts ended with version 4 of transformers.
        return None if isinstance(pretrained.model.head, Span) else "token-classification"
    kind = next((kind for kind in PIPELINES if kind in processor.reads), None)
    return PIPELINES[kind] if kind and task.problem else None


def of_hugging_face(pretrained: Pretrained) -> str:
    """Return how to use a directory in the Hugging Face layout."""
    if written_kind(pretrained) == OWN:
        return of_tlx(type(pretrained.model.config))
    pipeline = pipeline_of(pretrained)
    words = "transformers opens this directory, and so does tlx (`tlx predict`, `tlx.load_pretrained`)."
    if pipeline in ("text-classification", "image-classification", "token-classification"):
        example = "first.png" if pipeline.startswith("image") else "the first text"
        lines = [
            "from transformers import pipeline",
            "",
            f'classify = pipeline("{pipeline}", model=".")',
            f'print(classify("{example}"))',
        ]
    else:
        auto = "AutoModelForQuestionAnswering" if isinstance(pretrained.model.head, Span) else "AutoModel"
        lines = [f"from transformers import {auto}", "", f'model = {auto}.from_pretrained(".")']
    if pretrained.task is not None and (scale := pretrained.task.label_scale()) is not None:
        words += (
            " The model returns standardised numbers: multiply them by "
            f"{', '.join(f'{number:.6g}' for number in scale[1])} and add {', '.join(f'{n:.6g}' for n in scale[0])}."
        )
    return f"{words}\n\n{block(chr(10).join(lines), 'python')}"


def of_tlx(kind: type[Architecture]) -> str:
    """Return how to use a directory that only tlx opens, because transformers has no class for the architecture."""
    words = f"Only tlx opens this directory, because transformers has no class for {code(kind.__name__)}."
    lines = ["import tlx", "", 'pretrained = tlx.load_pretrained(".")']
    if kind not in architectures():
        words += f" {code(kind.__name__)} is a class of the run's config file: `tlx predict . EXAMPLE --config FILE`."
        lines = [
            "import tlx",
            "from config import recipe  # the config file of the run",
            "",
            'pretrained = tlx.load_pretrained(".", model=recipe().model)',
        ]
    return f"{words}\n\n{block(chr(10).join(lines), 'python')}"


def of_program(written: Written, task: Task | None) -> str:
    """Return how to use a program of `jax.export`."""
    about = written.about
    lines = ["import json", "", "import jax", "import numpy as np", "from load import load"]
    lines += [*inputs_of(written.preparation), "model = load()"]
    if written.sizes.batch is None:
        lines += ["outputs = model(**inputs)"]
    else:
        lines += [
            "count = len(next(iter(inputs.values())))",
            "rows = [model(**{name: array[n : n + 1] for name, array in inputs.items()}) for n in range(count)]",
            "outputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}",
        ]
    lines += decoded(task)
    platforms = ", ".join(about["platforms"])
    sentences = [
        f"`{LOADER}` opens `{PROGRAM}` and `model.safetensors`. It needs jax, numpy and flatbuffers "
        "(`pip install jax flatbuffers`), and not tlx.",
        f"jax {about['jax']} wrote the program on {about['written']} for {platforms}. Versions of jax that appear "
        "within six months open it; for later versions, export the run again.",
        f"`{ABOUT}` lists the inputs, the outputs and the classes. {written.preparation.words}",
        f"On the machine that wrote it, its outputs differed from those of tlx by at most "
        f"{about['largest_difference']:.1g}.",
        *map(plain, written.notes),
    ]
    return f"{items(sentences)}\n\n{block(chr(10).join(lines), 'python')}"


def inputs_of(preparation: Preparation) -> Sequence[str]:
    """Return the lines that make `inputs`; where only tlx makes them, arrays of zeros."""
    if preparation.lines:
        return preparation.lines
    lines = ["", "# Put your arrays in the place of these zeros.", "inputs = {"]
    for name, field in preparation.fields.items():
        shape = (1, *(7 if side is None else side for side in field.shape))
        lines.append(f'    "{name}": np.zeros({shape}, "{field.dtype}"),')
    return [*lines, "}"]


def decoded(task: Task | None) -> list[str]:
    """Return the lines that print the answers in `outputs`."""
    if task is not None and task.problem in PROBABILITIES:
        probabilities, calibration = PROBABILITIES[task.problem], []
        if (temperature := temperature_of(task)) is not None:
            calibration = ["# The calibrated probabilities divide the logits by this temperature."]
            calibration += [f"temperature = {temperature!r}"]
            probabilities = 'jax.nn.softmax(outputs["logits"] / temperature)'
        return [
            f'names = json.load(open("{ABOUT}", encoding="utf-8"))["classes"]',
            *calibration,
            f"for row in {probabilities}:",
            "    print({name: round(float(number), 4) for name, number in zip(names, row)})",
        ]
    if task is not None and (scale := task.label_scale()) is not None:
        return [
            "# The model returns standardised numbers.",
            f"mean, deviation = np.array({list(scale[0])}), np.array({list(scale[1])})",
            'print(outputs["logits"] * deviation + mean)',
        ]
    return ["for name, array in outputs.items():", "    print(name, np.asarray(array))"]
