"""A source of weights: which names are paths and which are hub ids, and what a mistyped one answers."""

import json
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import jax
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from tlx import load_pretrained, models, tasks
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, hub, save_pretrained
from tlx.weights.source import locate

TEXT = {"vocabulary": 12, "width": 8, "depth": 1, "heads": 2, "mlp": 12, "positions": 12}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory with two runs and an empty cache of the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / ".hub"))
    for name in ("runs/demo", "runs/baseline", "models"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def requests(monkeypatch):
    """The ids for which the network was asked; the hub cannot be reached."""
    asked = []

    def download(name, *, allow_patterns, local_files_only=False):
        if not local_files_only:
            asked.append(name)
        raise LocalEntryNotFoundError("Cannot reach the hub.\nGot: ConnectError: [Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def cached(place, name):
    """Put a small model into the cache of the hub, as its client stores it."""
    repository = place / ".hub" / f"models--{name.replace('/', '--')}"
    config = models.Bert(**TEXT)
    model = models.build(config, 2)
    variables = models.initialise(model, jax.random.key(0))
    task = tasks.Classification(classes=2, names=("bad", "good"))
    pretrained = Pretrained(model, Variables(variables.params, {}), None, Manifest("random", {}, ()), task)
    save_pretrained(pretrained, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return config


def error_of(source):
    with pytest.raises(FileNotFoundError) as error:
        locate(source)
    assert "\n" not in str(error.value) and "ConnectError" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "path", ["runs/nosuch", "runs/dem", "./demo", "/no/such", "models/bert", "a/b/c", "two words", "runs/demo/model"]
)
def test_a_mistyped_path_never_reaches_the_hub(place, requests, path):
    assert path in error_of(path)
    assert not requests


def test_a_mistyped_path_names_the_nearest_directories(place, requests):
    assert "'runs/demo'" in error_of("runs/demmo") and "'runs/baseline'" in error_of("runs/base")
    # The first part is the mistyped one.
    assert "close: 'runs'" in error_of("rums/demo/model")
    assert f"'{place}/runs/demo'" in error_of(place / "runs" / "dem")


def test_a_path_below_a_directory_says_how_the_hub_is_meant(place, requests):
    assert "hf://models/bert" in error_of("models/bert")
    assert not requests
    line = error_of("hf://models/bert")
    assert requests == ["models/bert"] and "cannot be reached" in line
    with pytest.raises(ValueError, match="hf://OWNER/NAME"):
        locate("hf://a/b/c")


@pytest.mark.parametrize("name", ["bert-base-uncased", "someone/tiny"])
def test_a_hub_id_that_cannot_be_fetched_is_one_line(place, requests, name, monkeypatch):
    line = error_of(name)
    assert requests == [name] and name in line and "cannot be reached" in line
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    line = error_of(name)
    assert requests == [name] and "HF_HUB_OFFLINE" in line


def test_a_near_miss_of_an_asset_names_it(place, requests):
    assert "'minilm-l6'" in error_of("minilm-6")


@pytest.mark.parametrize("name", ["bert-base-uncased", "someone/tiny"])
def test_a_hub_id_with_and_without_an_owner_opens_from_the_cache(place, name, monkeypatch):
    monkeypatch.setenv("TLX_OFFLINE", "1")
    config = cached(place, name)
    assert load_pretrained(name).model.config == load_pretrained(f"hf://{name}").model.config == config
    assert hub.cached_hub_id(name) == hub.cached_hub_id(f"hf://{name}") == name
    # A directory of the same name comes first.
    Path(name).mkdir(parents=True)
    assert hub.cached_hub_id(name) is None
    assert "neither config.json" in error_of(name)


def test_a_hub_id_in_the_cache_is_used_although_its_owner_is_a_directory(place, monkeypatch):
    monkeypatch.setenv("TLX_OFFLINE", "1")
    cached(place, "models/tiny")
    assert locate("models/tiny").is_relative_to(place / ".hub")


def test_a_directory_without_a_model_says_what_it_is(place, requests):
    folder = place / "runs" / "demo"
    (folder / "recipe.json").write_text("{}")
    assert "--resume" in error_of("runs/demo")
    (folder / "result.json").write_text("{}")
    assert "model/config.json is missing" in error_of("runs/demo")
    (folder / "program.json").write_text(json.dumps({}))
    assert "load.py" in error_of("runs/demo") and "--to huggingface" in error_of("runs/demo")
    (folder / "learned.safetensors").write_bytes(b"")
    assert "tlx rebuild" in error_of("runs/demo")
    assert "is a file" in error_of("runs/demo/recipe.json")
