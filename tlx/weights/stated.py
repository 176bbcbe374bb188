"""The task that a checkpoint's config.json states, and the entries that describe a task in one."""

from pathlib import Path
from typing import Any

from tlx import tasks
from tlx.models import Pooled, Span, Vocabulary
from tlx.tasks import Statement, Task
from tlx.trees import Json
from tlx.weights.files import CONFIG
from tlx.weights.formats import Format
from tlx.weights.heads import FIELDS, TASK, Stated


def stated_head(document: Json, form: Format, file: Path) -> Stated:
    """Return the head that `config.json` states.

    The task has no names if `id2label` has one name for several classes.

    Args:
        document: The content of `config.json`.
        form: The format of the document.
        file: The path of `config.json`, for the errors.

    Raises:
        ValueError: `id2label` does not number the classes from 0, or `label2id` has them in another order.
    """
    architecture = (document.get("architectures") or [""])[0]
    kind = form.head_in(document)
    names, problem = stated_names(document, file), document.get("problem_type")
    if kind is None:
        return Stated(None, names, architecture)
    task_kind = str(document.get(TASK) or "")
    statement = Statement(kind, len(names) or document.get("num_labels", 2), names, problem, task_kind)
    # The architecture knows the number of its words.
    head = Vocabulary() if issubclass(kind, Vocabulary) else kind(statement.outputs)
    if task_kind and tasks.own_task(task_kind) is None:
        return Stated(None, names, architecture, head, task_kind)
    task = tasks.stated(statement)
    if task is not None and (fields := document.get(FIELDS)):
        task = with_fields(task, fields, file)
    if task is not None and isinstance(head, Span):
        # The task knows its windows.
        head = task.head()
    if task is not None and isinstance(head, Pooled):
        head = Pooled(head.outputs, getattr(task, "neck", None))
    return Stated(task, names, architecture, head, type(task).__name__ if task else "")


def with_fields(task: Task, fields: Any, file: Path) -> Task:
    """Return the task with the fields that config.json keeps; raise ValueError, with the file, if they do not fit."""
    try:
        return task.with_kept(dict(fields))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {FIELDS}: {error}") from None


def task_entries(task: Task, document: Json, form: Format) -> Json:
    """Return the entries of config.json that describe a task, for a `document` that describes its head.

    Args:
        task: The task.
        document: The other entries of config.json.
        form: The format of the document.
    """
    entries = task.config_document()
    described = {name: value for name, value in document.items() if name not in (TASK, FIELDS)} | entries
    if stated_head(described, form, Path(CONFIG)).kind != type(task).__name__:
        entries[TASK] = tasks.own_name(task)
    return entries | ({FIELDS: fields} if (fields := task.kept_fields) else {})


def stated_names(document: Json, file: Path) -> tuple[str, ...]:
    """Return the class names of `config.json` in the order of their numbers; empty if it has no `id2label`."""
    labels = document.get("id2label") or {}
    for field in ("id2label", "label2id"):
        if not isinstance(document.get(field) or {}, dict):
            raise ValueError(f"{file}: {field} is {document[field]!r}; expected an object of class numbers and names")
    names = {str(number): str(name) for number, name in labels.items()}
    if names.keys() != {str(n) for n in range(len(names))}:
        raise ValueError(
            f"{file}: id2label numbers its classes {', '.join(sorted(names)[:12])}; expected the numbers 0 to "
            f"{len(names) - 1}"
        )
    listed = tuple(names[str(n)] for n in range(len(names)))
    numbers = {str(name): str(number) for name, number in (document.get("label2id") or {}).items()}
    if numbers.keys() == set(listed) and (wrong := [name for n, name in enumerate(listed) if numbers[name] != str(n)]):
        raise ValueError(
            f"{file} contradicts itself: {wrong[0]!r} is class {listed.index(wrong[0])} in id2label and class "
            f"{numbers[wrong[0]]} in label2id; correct one of the two"
        )
    return listed
