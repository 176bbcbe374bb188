"""Export a run or a model: to the Hugging Face layout, or to a program that opens without tlx; with a model card."""

from pathlib import Path
from typing import NamedTuple

from tlx.export import torch_layouts
from tlx.export.blends import blend_of
from tlx.export.card import NAME as CARD
from tlx.export.card import card, records_of
from tlx.export.program import write_program
from tlx.export.temperature import folded, in_words
from tlx.export.usage import of_hugging_face, of_program
from tlx.predict import opened
from tlx.predict.opening import resolved
from tlx.processors.vocabulary import notes
from tlx.recipe import Recipe
from tlx.trees import near_miss
from tlx.weights import Pretrained, check_trained
from tlx.weights.export import check_new, new_directory, note, refuse, write_checked
from tlx.weights.form import OWN, inserted, written_kind
from tlx.weights.saving import ADVICE

__all__ = ["FORMS", "Export", "export_run"]

FORMS = ("huggingface", *torch_layouts.FORMS, "stablehlo")
# A form that users ask for; its reasons are in docs/decisions/no-onnx.md.
NO_ONNX = (
    "there is no export to ONNX, because the converter jax2onnx (0.17) fails for some models and does not fit the "
    "orbax of tlx; use --to stablehlo"
)


class Export(NamedTuple):
    """An exported directory, and notes on what is unusual about it."""

    directory: Path
    notes: tuple[str, ...]


def export_run(
    source: str | Path, directory: str | Path, *, to: str = "huggingface", recipe: Recipe | None = None
) -> Export:
    """Export the model of a run, open the written files again, and compare the outputs with those of the run.

    The directory is there as a whole, with its model card, or not at all.

    Args:
        source: The directory of the run, or another saved model.
        directory: The directory to write.
        to: "huggingface" for the layout that transformers opens, "timm" or "torchvision" for the layouts of these
            libraries, "stablehlo" for a program of `jax.export` that needs jax alone.
        recipe: The recipe of the run's config file; needed if the run uses a user's class.

    Returns:
        The directory, and the notes for the user.

    Raises:
        FileExistsError: The directory is not empty.
        FileNotFoundError: There is no such run or model.
        ValueError: The form cannot hold the model, the model was never trained, or a file of the run is damaged.
    """
    check_form(to)
    check_new(directory)
    pretrained = opened(source, *((recipe.model, recipe.data.processor, recipe.task) if recipe else ()))
    check_trained(pretrained, ADVICE)
    if to == "huggingface":
        refuse(pretrained)
    records = records_of(source, None if recipe is None else resolved(Path(source), recipe.task))
    with new_directory(directory) as partial:
        library, use, limits = write(pretrained, partial, to)
        text = card(pretrained, records, to, library, use, blend_of(source))
        (partial / CARD).write_text(text, encoding="utf-8")
    return Export(Path(directory), tuple(filter(None, [*limits, *notes(pretrained.processor), unused(pretrained)])))


def check_form(to: str) -> None:
    """Raise ValueError if tlx has no form of this name."""
    if to == "onnx":
        raise ValueError(NO_ONNX)
    if to not in FORMS:
        raise ValueError(f"tlx has no form {to!r}{near_miss(to, FORMS)}")


def write(pretrained: Pretrained, directory: Path, to: str) -> tuple[str, str, list[str | None]]:
    """Write a form; return the library that opens it, how to use it, and notes."""
    if to in torch_layouts.FORMS:
        use, limits = torch_layouts.write_torch_layout(pretrained, directory, to)
        return to, use, [*limits, in_words(pretrained, to)]
    return write_for_jax(pretrained, directory) if to == "stablehlo" else write_hugging_face(pretrained, directory)


def write_hugging_face(pretrained: Pretrained, directory: Path) -> tuple[str, str, list[str | None]]:
    """Write the Hugging Face layout; return the library that opens it, how to use it, and notes."""
    write_checked(folded(pretrained), directory)
    library = "tlx" if written_kind(pretrained) == OWN else "transformers"
    place = None if library == "tlx" else torch_layouts.rounding_note(pretrained, "huggingface")
    return library, of_hugging_face(pretrained), [note(pretrained), place, in_words(pretrained, "huggingface")]


def write_for_jax(pretrained: Pretrained, directory: Path) -> tuple[str, str, list[str | None]]:
    """Write a program of `jax.export`; return the library that opens it, how to use it, and notes."""
    written = write_program(pretrained, directory)
    return (
        "jax",
        of_program(written, pretrained.task),
        [*written.notes, adapter_note(pretrained), in_words(pretrained, "stablehlo")],
    )


def adapter_note(pretrained: Pretrained) -> str | None:
    """Return a note if the exported program computes with an adapter that is not merged."""
    if not (leaves := sorted(inserted(pretrained))):
        return None
    return f"the program contains the adapter of the run, which is not merged ({leaves[0]}, ...)"


def unused(pretrained: Pretrained) -> str | None:
    """Return a note on the tensors of the source that the model does not use."""
    if not (names := sorted(entry.foreign for entry in pretrained.manifest.entries if entry.action == "unused")):
        return None
    shown = ", ".join(names[:4]) + (f", ... and {len(names) - 4} more" if len(names) > 4 else "")
    return f"the model does not use {len(names)} tensors of {pretrained.manifest.source}: {shown}"
