"""README, CONTRIBUTING and docs: links lead somewhere, code runs, commands and names exist, the gallery is complete."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tlx import Recipe, Study, config, objectives, tuning, updates
from tlx.cli import main
from tlx.functional.selection import CRITERIA

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
    if path.is_file()
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for actual, text in BLOCK.findall(page.read_text()):
            if actual == language:
                yield page, text


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)}: {target}; headings: {sorted(anchors(file))}"


@pytest.mark.parametrize(("page", "text"), [pytest.param(*item, id=name_of(item[0])) for item in blocks("python")])
def test_python_blocks_run_as_far_as_they_define_a_recipe_a_study_or_a_space(page: Path, text: str) -> None:
    code = compile(text, name_of(page), "exec")
    if not re.search(r"^def (recipe|study|space)\(", text, re.MULTILINE):
        return
    names: dict[str, object] = {}
    exec(code, names)
    if callable(make := names.get("recipe")):
        recipe = make()
        assert isinstance(recipe, Recipe)
        config.check(recipe)
    if callable(make := names.get("study")):
        study = make()
        assert isinstance(study, Study)
        assert len(study.cells) > 1
    if callable(make := names.get("space")):
        assert make()


def commands() -> Iterator[tuple[Path, list[str]]]:
    """Return every command `tlx NAME ...` in the shell blocks and in the inline code of a page."""
    for page in PAGES:
        text = page.read_text()
        lines = [line for language, block in BLOCK.findall(text) if language == "sh" for line in block.splitlines()]
        lines += re.findall(r"`(tlx [a-z][^`|]*)`", BLOCK.sub("", text))
        for line in lines:
            if actual := re.match(r"(?:\.venv/bin/)?tlx (.*)", line):
                yield page, shlex.split(actual[1], comments=True)


def test_commands_and_their_options_exist() -> None:
    for page, words in commands():
        command: click.Command = main
        for word in words:
            if isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]
        if words[0].startswith("-"):
            continue
        assert command is not main, f"{name_of(page)}: no command tlx {words[0]}"
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word in {*known, "--help"}, f"{name_of(page)}: tlx {shlex.join(words)} has no {word}"


def test_the_gallery_has_every_method() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    classes = [
        *(kind for kind in vars(objectives).values() if isinstance(kind, type) and issubclass(kind, objectives.Term)),
        *(kind for kind in vars(tuning).values() if isinstance(kind, type) and issubclass(kind, tuning.Tuning)),
        *(kind for kind in vars(updates).values() if isinstance(kind, type) and issubclass(kind, updates.Update)),
    ]
    bases = (objectives.Term, tuning.Tuning, updates.Update)
    names = [kind.__name__ for kind in classes if kind not in bases]
    assert len(names) > 50
    for name in [*names, *CRITERIA]:
        assert f"`{name}`" in text, f"docs/methods.md lacks {name}"


def test_the_gallery_names_only_files_that_exist() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    for name in re.findall(r"\| `(\w+\.py)` \|", text):
        actual = [
            folder
            for folder in ("tuning", "objectives", "updates", "tasks")
            if (ROOT / "tlx" / folder / name).is_file()
        ]
        assert actual, f"docs/methods.md names {name}"


def test_paths_of_the_repository_exist() -> None:
    for page in PAGES:
        for path in re.findall(
            r"`((?:tlx|configs|experiments|benchmarks|tests|docs)/[\w/]+(?:\.\w+)?/?)`", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{name_of(page)}: {path}"
