"""The structure of tlx: imports only go down, third-party packages stay in their modules, no file is too long."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tlx"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the bottom up: a module may import from earlier lines only. Modules on one line do not import each other.
LEVELS = (
    ("trees", "notebooks", "interrupt"),
    ("files",),
    ("types", "assets", "config", "place"),
    ("processes",),
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
    ("predict",),
    ("training",),
    ("study",),
    ("tune", "analysis", "export", "plan"),
    ("finetuning",),
    ("sklearn",),
    ("cli",),
)
HEIGHT = {package: level for level, packages in enumerate(LEVELS) for package in packages}

BORDERS = {
    "transformers": ("weights/", "processors/"),
    "tokenizers": ("processors/",),
    "huggingface_hub": ("export/card.py", "weights/", "data/sources/hub.py"),
    "pyarrow": ("data/sources/", "predict/"),
    "safetensors": ("weights/",),
    "tensorflow_datasets": ("data/",),
    "grain": ("data/",),
    "array_record": ("data/",),
    "fsspec": ("records/remote.py",),
    "orbax": ("training/checkpoint.py", "training/stored_arrays.py"),
    "flax": ("models/bridge.py",),
    "optax": ("optim/", "training/step.py"),
    "tensorboardX": ("records/trackers/tensorboard.py",),
    "wandb": ("records/trackers/wandb.py",),
    "mlflow": ("records/trackers/mlflow.py",),
    "trackio": ("records/trackers/trackio.py",),
    "altair": ("report/",),
    "vl_convert": ("report/",),
    "jinja2": ("report/",),
    "markupsafe": ("report/",),
    "scipy": (
        "report/", "functional/calibration.py", "functional/regression.py", "functional/significance.py",
        "analysis/classical/", "processors/sounds.py",
    ),
    "matplotlib": ("report/",),
    "plotly": ("report/",),
    "sklearn": (
        "data/datasets/", "analysis/", "functional/agreement.py", "functional/ranking.py", "functional/regression.py",
        "functional/selection.py", "sklearn.py",
    ),
    "ot": ("analysis/classical/",),
    "click": ("cli/",),
    "rich": ("cli/", "records/progress.py"),
    "IPython": ("records/progress.py",),
    "filelock": (
        "data/", "interrupt.py", "files/locks.py", "files/unpacked.py", "records/studies/", "study/", "training/",
        "tune/",
    ),
    "pandas": ("study/table.py", "training/frames.py"),
    "PIL": ("data/", "processors/", "training/evaluate.py"),
    "codecarbon": ("training/energy.py",),
    "optuna": ("tune/journal.py",),
    "ray": ("study/clusters/ray_tasks.py",),
    "submitit": ("study/clusters/slurm_jobs.py",),
    "soundfile": ("processors/sounds.py",),
    "sacrebleu": ("functional/texts.py",),
    "rouge_score": ("functional/texts.py",),
    "torch": (),
    "tensorflow": (),
}  # fmt: skip
EVERYWHERE = {"jax", "numpy"}


def name_of(path):
    return str(path.relative_to(PACKAGE))


def package_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


TEXTS = {name_of(path): path.read_text(encoding="utf-8") for path in FILES}


@pytest.fixture(scope="module")
def trees():
    """The syntax tree of every file, by its name."""
    return {name: ast.parse(text) for name, text in TEXTS.items()}


def imports(tree):
    """Return every module that a file imports, at any place (inside functions too)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            if node.module == "tlx":
                yield from (f"tlx.{name.name}" for name in node.names)
            else:
                yield node.module


def test_every_package_has_its_level():
    assert {package_of(path) for path in FILES} - {"__init__"} == HEIGHT.keys()


def test_imports_only_go_down(trees):
    wrong = []
    for path in FILES:
        package = package_of(path)
        if package == "__init__":
            # The top of the package names every subpackage, lazily.
            continue
        for module in imports(trees[name_of(path)]):
            first, *rest = module.split(".")
            if first == "tlx" and rest[0] != package and HEIGHT[rest[0]] >= HEIGHT[package]:
                wrong.append(f"{name_of(path)} imports {module}")
    assert not wrong, "an import may only go to a lower level"


def test_third_party_packages_stay_in_their_modules(trees):
    wrong = []
    for name, tree in trees.items():
        packages = {module.split(".")[0] for module in imports(tree)}
        for package in packages - {"tlx"} - EVERYWHERE - sys.stdlib_module_names:
            if not name.startswith(BORDERS.get(package, ())):
                wrong.append(f"{name} imports {package}; only {BORDERS.get(package, ())} may")
    assert not wrong


def test_no_file_is_too_long():
    assert not {name: lines for name, text in TEXTS.items() if (lines := len(text.splitlines())) > 400}


def test_no_function_is_too_long(trees):
    """The docstring does not count: an argument that is explained makes no function harder to read."""
    lengths = {}
    for name, tree in trees.items():
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            documented = ast.get_docstring(node) is not None
            docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0
            lengths[f"{name}: {node.name}"] = node.end_lineno - node.lineno + 1 - docstring
    assert not {name: lines for name, lines in lengths.items() if lines > 56}


def test_a_mistake_of_the_user_is_never_an_assertion(trees):
    """`assert x is not None`, which informs the type checker, is the only allowed form."""
    wrong = []
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                test = node.test
                narrowing = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot) and node.msg is None
                wrong += [] if narrowing else [f"{name}:{node.lineno}"]
    assert not wrong, "raise ValueError with the value and what was expected"


def test_every_module_and_public_class_has_a_docstring(trees):
    missing = [name for name, tree in trees.items() if not ast.get_docstring(tree)]
    missing += [
        f"{name}: {node.name}"
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not missing


def test_a_class_name_exists_once(trees):
    files = {}
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files.setdefault(node.name, []).append(name)
    assert not {name: places for name, places in files.items() if len(places) > 1}


def test_no_module_has_a_vague_name():
    vague = ("utils", "helpers", "manager", "misc", "common")
    assert not [name for name in TEXTS if any(word in Path(name).stem for word in vague)]


def test_the_loop_fits_on_one_screen(trees):
    (train,) = (
        node for node in trees["training/loop.py"].body if isinstance(node, ast.FunctionDef) and node.name == "train"
    )
    assert train.end_lineno - train.lineno < 50


def test_pmap_is_used_in_one_file(trees):
    users = [
        name
        for name, tree in trees.items()
        if any(isinstance(node, ast.Attribute) and node.attr == "pmap" for node in ast.walk(tree))
    ]
    assert users == ["training/pmap.py"]


def test_the_top_of_the_package_has_few_names():
    import tlx

    # `finetune` is the first name that a user needs, so it is one of them.
    assert len(tlx.__all__) <= 29, "reach it through its package"


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
