"""The part of a model card about a soup or an interpolated model (`tlx soup`, `tlx wise`): what `blend.json` states."""

from pathlib import Path

from tlx.export.markdown import code, items, plain, table
from tlx.files.documents import read_json
from tlx.files.documents.checks import Mapped, Record, Rows, Text
from tlx.files.documents.records import NUMBER
from tlx.report import words
from tlx.trees import Json

NAME = "blend.json"
FORM = Record(
    {"metrics": Mapped(NUMBER), "selection": Text(), "notes": Rows(Text())},
    {"run": Text(), "ingredients": Rows(Record({"run": Text()}))},
)


def blend_of(source: str | Path) -> Json | None:
    """Return the content of `blend.json` of a model; None if it is no blend. Raises ValueError if it is damaged."""
    file = Path(source).expanduser() / NAME
    return read_json(file, FORM, remedy="blend the runs again") if file.exists() else None


def sections(document: Json) -> list[str]:
    """Return the sections of a card: the measured numbers, the rule, the runs, and the notes."""
    rows = []
    for key, value in document["metrics"].items():
        split, _, name = key.rpartition("/")
        rows.append((plain(split), plain(name), words.number(value, pad=True)))
    runs = [item["run"] for item in document.get("ingredients", ())] or [document.get("run", "")]
    return [
        "## Results",
        table(("split", "metric", "value"), rows),
        f"Its weights were chosen by the rule {code(document['selection'])}. The scores of the examples are not kept, "
        "so there are no intervals.",
        "## Training",
        "The weights are blended from the final weights of these runs, whose directories have their data and recipes:",
        items(code(Path(run).name) for run in runs),
        *([items(map(plain, document["notes"]))] if document["notes"] else []),
    ]
