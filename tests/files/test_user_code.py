"""The source code that a recipe depends on: which edits count, and the report of a run with changed code."""

import dataclasses
import functools
import importlib
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

import tlx
from tlx import Data, Optim, Recipe, Train, config, models, tasks
from tlx.cli import main
from tlx.cli.user_files import function_of
from tlx.config import documents
from tlx.files import schema_1, user_code
from tlx.objectives import Supervised
from tlx.predict import predict
from tlx.records import run_directory, studies
from tlx.training.reopen import reopen

NET = '''"""A network of the user's."""
import flax.linen as nn
from layers import activation


class Net(nn.Module):
    """One layer."""

    width: int = 4

    @nn.compact
    def __call__(self, image):
        # hidden
        return nn.Dense(10)(activation(nn.Dense(self.width)(image.reshape(len(image), -1))))
'''
LAYERS = "import jax\nimport scales\n\ndef activation(x):\n    return jax.nn.relu(x) * scales.SCALE\n"
CONFIG = '''"""A study of the user's network."""
from net import Net
from tlx import Data, Recipe, Study, Train, models, param, tasks

def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Linen(module=Net(), shape=(8, 8, 1)),
        train=Train(steps=2, batch=8, eval_batch=64),
    )

def study():
    return Study(base=recipe(), cells=param("seed", 0, 1), question="Does a seed matter?")
'''
PINNED = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    objective=(Supervised(),),
    train=Train(steps=3, batch=8, eval_batch=64),
)


def forget():
    for name in ("net", "layers", "scales", "pack", "pack.net", "pack.deep"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


@pytest.fixture
def code(tmp_path):
    """A directory with `net.py`, which imports `layers.py`, which imports `scales.py`, and a config `small.py`."""
    forget()
    for name, text in {"net": NET, "layers": LAYERS, "scales": "SCALE = 1.0\n", "small": CONFIG}.items():
        (tmp_path / f"{name}.py").write_text(text)
    yield tmp_path
    forget()


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    # Python's cache may miss an edit of equal length within one tick of the clock.
    stat = path.stat()
    edit.count += 1
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + edit.count * 10**9))


edit.count = 0


def fingerprint(path, name="recipe"):
    """Return the fingerprint of the config as another process would compute it."""
    forget()
    return config.fingerprint(function_of(str(path), name, "config")())


def test_recipes_without_user_code_keep_their_fingerprints():
    assert config.sources(PINNED) == {}
    assert config.fingerprint(PINNED) == "8b33527d5fee4086"
    assert config.fingerprint(PINNED) == config.fingerprint(PINNED, with_sources=False)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("net.py", "Dense(10)", "Dense(10, use_bias=False)"),
        ("layers.py", "relu", "gelu"),
        ("scales.py", "1.0", "2.0"),
    ],
)
def test_an_edit_of_the_code_gives_another_recipe(file, before, after, code):
    first = fingerprint(code / "small.py")
    assert fingerprint(code / "small.py") == first
    edit(code / file, before, after)
    assert fingerprint(code / "small.py") != first
    edit(code / file, after, before)
    assert fingerprint(code / "small.py") == first


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("net.py", "# hidden", "# the hidden layer"),
        ("net.py", '"""One layer."""', '"""Two layers."""'),
        ("net.py", "\n\n\nclass", "\nclass"),
        ("scales.py", "SCALE = 1.0", "SCALE=(1.0)"),
        ("small.py", "import Net\n", "import Net\n\nunrelated = 3\n"),
        ("small.py", "Does a seed matter?", "Does it?"),
    ],
)
def test_comments_layout_and_the_rest_of_a_config_do_not_count(file, before, after, code):
    first = fingerprint(code / "small.py")
    edit(code / file, before, after)
    assert fingerprint(code / "small.py") == first


def test_relative_imports_in_a_package_are_followed(code):
    (code / "pack").mkdir()
    (code / "pack" / "__init__.py").write_text("")
    (code / "pack" / "net.py").write_text(NET.replace("layers import", ".deep import"))
    (code / "pack" / "deep.py").write_text("from jax.nn import relu as activation\n")
    edit(code / "small.py", "from net", "from pack.net")
    first = fingerprint(code / "small.py")
    named = {
        os.path.relpath(path, code) for path in config.sources(function_of(str(code / "small.py"), "recipe", "x")())
    }
    assert named == {"pack/__init__.py", "pack/net.py", "pack/deep.py"}
    edit(code / "pack" / "deep.py", "relu", "gelu")
    assert fingerprint(code / "small.py") != first


INSIDE = '''"""All in one file."""
import jax
from tlx import Data, Recipe, Train, models, tasks
import flax.linen as nn

SCALE = 1.0
EPOCHS = 3
OPTIONS = {}
OPTIONS["slope"] = 0.1

def activation(x):
    return jax.nn.leaky_relu(x, OPTIONS["slope"]) * SCALE

def other(x):
    return x

class Net(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(10)(activation(image.reshape(len(image), -1)))

def make(module):
    return models.Linen(module=module, shape=(8, 8, 1))

def recipe():
    return Recipe(
        data=Data(target="digits"), task=tasks.Classification(classes=10), model=make(Net()),
        train=Train(epochs=EPOCHS),
    )
'''


@pytest.mark.parametrize(
    ("before", "after", "counts"),
    [
        ("SCALE = 1.0", "SCALE = 2.0", True),
        ('"slope"] = 0.1', '"slope"] = 0.2', True),
        ("leaky_relu(x, ", "leaky_relu(-x, ", True),
        ("Dense(10)", "Dense(10, use_bias=False)", True),
        ("return x\n", "return -x\n", False),
        ("def recipe():", "def recipe():\n    print(Net)", False),
        ("def make(module):", "def make(module):\n    print()", False),
    ],
)
def test_only_code_that_the_classes_of_a_config_need_counts(before, after, counts, code):
    (code / "inside.py").write_text(INSIDE)
    first = fingerprint(code / "inside.py")
    edit(code / "inside.py", before, after)
    assert (fingerprint(code / "inside.py") != first) is counts
    edit(code / "inside.py", after, before)
    edit(code / "inside.py", "EPOCHS = 3", "EPOCHS = 3.0")
    assert fingerprint(code / "inside.py") == first


FUNCTIONS = '''"""Functions as fields."""
import functools
from tlx import models

def make(rngs, width=8):
    return None

def around(width):
    return lambda rngs: make(rngs, width)

def first():
    return models.Nnx(make=lambda rngs: make(rngs, 1), shape=(8,))

def second():
    return models.Nnx(make=functools.partial(make, width=4), shape=(8,))

def third():
    return models.Nnx(make=around(16), shape=(8,))
'''


@pytest.mark.parametrize(
    ("name", "counting", "other"),
    [
        ("first", "make(rngs, 1)", "make, width=4"),
        ("first", "return None", "width=4"),
        ("second", "width=4", "make(rngs, 1)"),
        ("second", "width=8", "around(16)"),
        ("third", "around(16)", "make(rngs, 1)"),
        ("third", "make(rngs, width)", "width=4"),
    ],
)
def test_lambdas_partials_and_closures_count(name, counting, other, code):
    (code / "functions.py").write_text(FUNCTIONS)
    first = fingerprint(code / "functions.py", name)
    edit(code / "functions.py", other, other.replace("4", "5").replace("1", "2"))
    assert fingerprint(code / "functions.py", name) == first
    changed = counting.replace("None", "3").replace("1", "2").replace("4", "5").replace("8", "9")
    edit(code / "functions.py", counting, changed if changed != counting else "make(rngs, -width)")
    assert fingerprint(code / "functions.py", name) != first


def test_two_lambdas_of_one_line_or_function_are_distinguished(code):
    (code / "functions.py").write_text(
        "K = 1\n"
        "def one(n=0):\n    return (lambda x: x + K, lambda x: (x - K) * 2, lambda x: x)[n]\n"
        "def both():\n    return (\n        lambda x: x + K,\n        lambda x: x - K,\n    )\n"
    )
    fingerprint(code / "functions.py", "one")
    one = sys.modules["tlx_config_functions"].one
    assert len({config.fingerprint(one(n)) for n in range(3)}) == 3
    assert all(len({*config.sources(one(n)).values()} & {*config.sources(one(m)).values()}) == (n == m)
               for n in range(3) for m in range(3))  # fmt: skip
    first = fingerprint(code / "functions.py", "both")
    for edited in ("        lambda x: x + K", "        lambda x: x - K"):
        stored = function_of(str(code / "functions.py"), "both", "config")()
        recorded = {os.path.relpath(path, code): digest for path, digest in config.sources(stored).items()}
        assert len(recorded) == 2
        assert user_code.changed(recorded, code) == []
        edit(code / "functions.py", edited, f"{edited} * 2")
        assert fingerprint(code / "functions.py", "both") != first
        assert [os.path.basename(name) for name in user_code.changed(recorded, code)] == ["functions.py"]
        edit(code / "functions.py", f"{edited} * 2", edited)
    edit(code / "functions.py", "K = 1", "K = 2")
    assert fingerprint(code / "functions.py", "both") != first


def test_user_defined_terms_and_tunings_count_as_modules_do(code):
    (code / "term.py").write_text(
        "import dataclasses\nfrom tlx.objectives import Supervised\n\n\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\nclass Mine(Supervised):\n"
        "    def loss(self, view):\n        return super().loss(view)\n"
    )
    (code / "config.py").write_text(
        "from term import Mine\nfrom tlx import Data, Recipe, models, tasks\n"
        "def recipe():\n    return Recipe(data=Data(target='digits'), task=tasks.Classification(classes=10), "
        "model=models.Mlp(), objective=(Mine(),))\n"
    )
    first = fingerprint(code / "config.py")
    edit(code / "term.py", "super().loss(view)", "2 * super().loss(view)")
    sys.modules.pop("term")
    assert fingerprint(code / "config.py") != first
    sys.modules.pop("term")


def test_changes_at_run_time_do_not_change_the_fingerprint():
    recorded = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Counting(Supervised):
        def loss(self, view):
            recorded.append(view)
            return super().loss(view)

    class Make:
        calls = 0

        def __init__(self):
            self.count = 0

        def __call__(self, rngs):
            self.count += 1

    make = Make()
    recipe = dataclasses.replace(PINNED, objective=(Counting(),), model=models.Nnx(make=make, shape=(8,)))
    first = config.fingerprint(recipe)
    recorded.append(1)
    make(None)
    assert config.fingerprint(recipe) == first


def test_a_file_edited_while_it_is_loaded_counts_as_loaded(code):
    recipe = function_of(str(code / "small.py"), "recipe", "config")()
    first = config.fingerprint(recipe)
    edit(code / "net.py", "Dense(10)", "Dense(10, use_bias=False)")
    assert config.fingerprint(recipe) == first
    sys.path.append(str(code))
    try:
        importlib.reload(sys.modules["net"])
    finally:
        sys.path.remove(str(code))
    fresh = dataclasses.replace(recipe, model=models.Linen(module=sys.modules["net"].Net(), shape=(8, 8, 1)))
    assert config.fingerprint(fresh) != first


def test_cells_of_a_notebook_count(tmp_path):
    """IPython puts cells into `linecache`; their module has no file."""
    program = """
import linecache
from tlx import config
def cell(number, text):
    name = f"<cell {number}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), globals())
del globals()["__file__"]
cell(1, "SCALE = %s\\ndef helper(x):\\n    return x * SCALE\\n")
cell(2, "# %s\\ndef make(rngs):\\n    return helper(rngs)\\n")
print(config.fingerprint((make,)))
"""

    def once(*parts):
        path = tmp_path / "notebook.py"
        path.write_text(program % parts)
        return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True).stdout

    first = once("1", "a")
    assert once("1", "b") == first
    assert once("2", "a") != first


def test_a_field_that_tlx_adds_changes_no_fingerprint_of_an_installed_class(tmp_path, monkeypatch):
    """Such a class counts with all its own fields, and with those of tlx that are not at their defaults."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    (packages / "installed_optim.py").write_text(
        "from dataclasses import dataclass\nfrom tlx import Optim\n\n\n@dataclass(frozen=True, kw_only=True)\n"
        "class Faster(Optim):\n    extra: float = 1.0\n    mine: int = 0\n    plateau_divisor: float = 3.0\n"
    )
    monkeypatch.syspath_prepend(packages)
    faster = importlib.import_module("installed_optim").Faster
    assert not user_code.of([faster()])[0]
    counted = documents._printed(faster(), config.SCHEMA).keys() - {"kind", "class"}
    always = set(schema_1.ALWAYS["Optim"])
    assert always < {field.name for field in dataclasses.fields(Optim)}
    assert counted == always | {"extra", "mine", "plateau_divisor"}
    assert "plateau_falls" not in counted
    changed = (faster(plateau_falls=7), faster(extra=2.0), faster(lr=0.5), faster())
    assert len({config.fingerprint(optim) for optim in changed}) == 4


def test_installed_packages_and_the_standard_library_do_not_count():
    assert config.sources(models.Nnx(make=json.loads, shape=(8,))) == {}
    assert config.sources(models.Nnx(make=functools.partial(pytest.raises, 1), shape=(8,))) == {}
    assert not user_code.is_users(tlx.__file__)


def call(*words):
    forget()
    return CliRunner().invoke(main, list(words))


@pytest.mark.slow
def test_a_study_after_an_edit_is_stale_and_runs_again(code, monkeypatch):
    monkeypatch.chdir(code)
    edit(code / "small.py", '"seed", 0, 1)', '"seed", 0)')
    available = tlx.report.available
    monkeypatch.setattr("tlx.report.available", lambda: False)
    out = "runs/small"
    outcome = call("study", "small.py", "--quiet")
    assert outcome.exit_code == 0, outcome.output
    listed = {path.name for path in (code / out / "cells").iterdir()}
    assert "1 done" in call("study", "small.py", "--status").output
    edit(code / "scales.py", "1.0", "2.0")
    status = call("study", "small.py", "--status").output
    assert "0 done, 0 running, 0 failed, 0 waiting, 1 stale" in status
    assert status.count("stale: scales.py changed since") == 1
    assert "does not contain 1 new cells of the study" in status
    actual = studies.read(code / out)
    assert [cell.state for cell in actual.cells] == ["stale"]
    assert all(cell.result is None and cell.state_text == "stale: scales.py changed since" for cell in actual.cells)
    results = call("study", "small.py", "--results").output
    assert "1 stale cells are left out, because scales.py changed since they ran" in results
    assert results.count("\n| ") == 1
    with monkeypatch.context() as patch:
        patch.setattr("tlx.report.available", available)
        page = call("report", out)
    assert page.exit_code == 2
    assert "stale: scales.py changed since, so run the study again" in page.output
    assert call("study", "small.py", "--quiet").exit_code == 0
    assert len({path.name for path in (code / out / "cells").iterdir()} - listed) == 1
    assert "1 done" in call("study", "small.py", "--status").output
    # With the first code, the study finds its cells again and does not repeat them.
    edit(code / "scales.py", "2.0", "1.0")
    assert call("study", "small.py", "--quiet").exit_code == 0
    assert [cell.state for cell in studies.read(code / out).cells] == ["done"]
    assert {cell.fingerprint for cell in studies.read(code / out).cells} == listed


@pytest.mark.slow
def test_a_run_after_an_edit_names_the_changed_file(code, monkeypatch):
    monkeypatch.chdir(code)
    assert call("run", "small.py", "--out", "run", "--quiet").exit_code == 0
    written = json.loads((code / "run" / "recipe.json").read_text())
    assert {*written["sources"]} == {"../net.py", "../layers.py", "../scales.py"}
    assert run_directory.stale(code / "run") == []
    assert call("run", "small.py", "--out", "run", "--resume", "--quiet").exit_code == 0
    edit(code / "layers.py", "relu", "gelu")
    assert run_directory.stale(code / "run") == ["layers.py"]
    for words in (("--resume",), ()):
        recorded = call("run", "small.py", "--out", "run", "--quiet", *words)
        assert recorded.exit_code == 2
        assert recorded.output.startswith(
            "tlx: run contains the run of this recipe, but the run is stale, because layers.py changed"
        )
    recipe = function_of("small.py", "recipe", "config")()
    with pytest.raises(ValueError, match=r"run is stale: layers.py changed since it ran"):
        reopen("run", recipe)
    with pytest.raises(ValueError, match=r"run is stale: layers.py changed since it ran"):
        predict("run", [], recipe.model)
    page = call("report", "run")
    assert page.exit_code == 0
    assert "Stale: layers.py changed since this run" in (code / "run" / "report.html").read_text()
    # The code and the run may move together, and be read from another place.
    monkeypatch.chdir("/")
    (code / "moved").mkdir()
    for name in ("run", "net.py", "layers.py", "scales.py"):
        (code / name).rename(code / "moved" / name)
    assert run_directory.stale(code / "moved" / "run") == [str(code / "moved" / "layers.py")]
    (code / "moved" / "layers.py").unlink()
    assert run_directory.stale(code / "moved" / "run") == []


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_reopened_without_its_sources(code, monkeypatch):
    monkeypatch.chdir(code)
    assert call("run", "small.py", "--out", "run", "--quiet").exit_code == 0
    (code / "run" / "files.json").unlink()
    for name in ("recipe.json", "result.json"):
        document = json.loads((code / "run" / name).read_text())
        document.pop("sources", None)
        document["fingerprint"] = (
            document.pop("without_sources", None)
            or json.loads((code / "run" / "recipe.json").read_text())["fingerprint"]
        )
        (code / "run" / name).write_text(json.dumps(document))
    recipe = function_of("small.py", "recipe", "config")()
    assert reopen("run", recipe).result["seed"] == 0
    recorded = call("run", "small.py", "--out", "run", "--resume", "--quiet")
    assert recorded.exit_code == 2
    assert "by an earlier version of tlx, which did not record its source code" in recorded.output
