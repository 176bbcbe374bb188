"""The structure of tlx: imports only go down, third-party packages stay in their modules, no file is too long."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tlx"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the bottom up: a module may import from earlier lines only. Modules on one line do not import each other.
FLOORS = (
    ("trees",),
    ("files",),
    ("types", "assets", "config"),
    ("functional",),
    ("layers", "partition", "sharding", "processors"),
    ("models", "optim", "data"),
    ("tasks", "tuning"),
    ("weights",),
    ("objectives",),
    ("updates",),
    ("recipe",),
    ("records",),
    ("report",),
    ("training",),
    ("predict", "study"),
    ("tune", "analysis"),
    ("cli",),
)
HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

BORDERS = {
    "transformers": ("weights/", "processors/"),
    "tokenizers": ("processors/",),
    "huggingface_hub": ("weights/",),
    "safetensors": ("weights/",),
    "tensorflow_datasets": ("data/",),
    "grain": ("data/",),
    "array_record": ("data/",),
    "orbax": ("training/checkpoint.py",),
    "flax": ("models/bridge.py",),
    "optax": ("optim/", "training/step.py"),
    "tensorboardX": ("records/log.py",),
    "altair": ("report/",),
    "vl_convert": ("report/",),
    "jinja2": ("report/",),
    "scipy": ("report/", "functional/significance.py", "analysis/classical/", "processors/sounds.py"),
    "matplotlib": ("report/",),
    "plotly": ("report/",),
    "sklearn": ("data/datasets/", "analysis/", "functional/selection.py"),
    "ot": ("analysis/classical/",),
    "click": ("cli/",),
    "rich": ("cli/", "records/log.py"),
    "filelock": ("assets.py", "data/", "files/locks.py", "records/studies/", "study/", "training/", "tune/"),
    "pandas": ("study/table.py",),
    "PIL": ("data/", "processors/", "training/evaluate.py"),
    "codecarbon": ("training/energy.py",),
    "optuna": ("tune/journal.py",),
    "soundfile": ("processors/sounds.py",),
    "torch": (),
    "tensorflow": (),
}
EVERYWHERE = {"jax", "numpy"}


def named(path):
    return str(path.relative_to(PACKAGE))


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Return every module that a file imports, at any place (inside functions too)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)} imports relatively"
            if node.module == "tlx":
                yield from (f"tlx.{name.name}" for name in node.names)
            else:
                yield node.module


def test_every_package_has_its_level():
    assert {room(path) for path in FILES} - {"__init__"} == HEIGHT.keys()


# The top of the package names every subpackage, lazily.
@pytest.mark.parametrize("path", [path for path in FILES if room(path) != "__init__"], ids=named)
def test_imports_only_go_down(path):
    value = room(path)
    for module in imports(path):
        first, *rest = module.split(".")
        if first == "tlx" and rest[0] != value:
            assert HEIGHT[rest[0]] < HEIGHT[value], f"{named(path)} imports {module}, which does not lie below it"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_third_party_packages_stay_in_their_modules(path):
    for module in imports(path):
        first = module.split(".")[0]
        if first == "tlx" or first in sys.stdlib_module_names or first in EVERYWHERE:
            continue
        assert first in BORDERS, f"{named(path)} imports {first}, which no border names"
        assert named(path).startswith(BORDERS[first]), f"{named(path)} imports {first}: only {BORDERS[first]} may"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_no_file_is_too_long(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{named(path)} has {lines} lines: it is two rooms"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_mistake_of_the_user_is_never_an_assertion(path):
    """`assert x is not None`, which informs the type checker, is the only allowed form."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assert):
            test = node.test
            narrowing = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot) and node.msg is None
            assert narrowing, f"{named(path)}:{node.lineno} asserts; raise ValueError with what was expected"


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_module_and_public_class_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{named(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{named(path)}: {node.name} has no docstring"


@pytest.mark.parametrize("word", ["utils", "helpers", "manager", "misc", "common"])
def test_no_module_has_a_vague_name(word):
    assert not [named(path) for path in FILES if word in path.stem]


def test_the_loop_fits_on_one_screen():
    tree = ast.parse((PACKAGE / "training/loop.py").read_text(encoding="utf-8"))
    (train,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert train.end_lineno - train.lineno < 50


@pytest.mark.parametrize("path", FILES, ids=named)
def test_pmap_is_used_in_one_file(path):
    names = {
        node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
    }
    assert "pmap" not in names or named(path) == "training/pmap.py", f"{named(path)} uses jax.pmap"


def test_the_top_of_the_package_has_few_names():
    import tlx

    assert len(tlx.__all__) <= 28, "reach it through its package"


def test_importing_tlx_imports_nothing_heavy():
    import subprocess

    program = "import sys, tlx, tlx.cli; print(sorted({name.split('.')[0] for name in sys.modules}))"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(process.stdout))
    assert not loaded & {"jax", "numpy", "transformers", "orbax", "grain", "tensorflow_datasets", "altair", "rich"}


def test_a_name_that_moved_says_its_new_place():
    from importlib import import_module

    import tlx

    for name, place in tlx.MOVED.items():
        with pytest.raises(AttributeError, match=f"tlx.{place}$"):
            getattr(tlx, name)
        package, _, last = f"tlx.{place}".rpartition(".")
        assert hasattr(import_module(package), last) or import_module(f"tlx.{place}")
