"""A run at a URL: every machine continues from what was copied completely, and nothing else counts."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import tlx
from tlx import Data, Recipe, Train, models, report, tasks
from tlx.cli import main
from tlx.files import run_files
from tlx.files.durable import DamagedWarning, StorageError
from tlx.files.locks import InUse
from tlx.predict.opening import open_model
from tlx.records.log import read_metrics
from tlx.records.remote import WRITER, RemoteRun, is_url
from tlx.training.checkpoint import Checkpoints
from tlx.training.loop import How

RECIPE = Recipe(
    data=Data(target="digits", shots=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    train=Train(steps=12, batch=8, eval_batch=64, eval_every=3, select="best-validation"),
)
HOW = How(quiet=True)


class FailingStore(MemoryFileSystem):
    """An object store that fails from a write on, as a dying machine or network does: the object does not appear."""

    protocol = "failing"
    store, pseudo_dirs = {}, [""]
    writes, last = 0, None

    def pipe_file(self, path, value, **settings):
        FailingStore.writes += 1
        if FailingStore.last is not None and FailingStore.writes > FailingStore.last:
            raise ConnectionError("the network is down")
        super().pipe_file(path, value, **settings)

    def rm_file(self, path):
        FailingStore.writes += 1
        if FailingStore.last is not None and FailingStore.writes > FailingStore.last:
            raise ConnectionError("the network is down")
        super().rm_file(path)

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("failing://").strip("/")


fsspec.register_implementation("failing", FailingStore)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, no_page):
    """A new machine, without any run in its cache, and empty stores."""
    monkeypatch.setattr("tlx.records.remote.cache_dir", lambda: tmp_path / "cache")
    for store in (MemoryFileSystem, FailingStore):
        store.store.clear()
    FailingStore.writes, FailingStore.last = 0, None
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The files of the run in an ordinary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        return tlx.run(RECIPE, tmp_path_factory.mktemp("alone") / "run", how=HOW).folder


def weights(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


def remote_files(url):
    store, root = fsspec.url_to_fs(url)
    return {name[len(root) + 1 :] for name in store.find(root)}


@pytest.mark.parametrize(
    "scheme", ["memory://bucket/run", pytest.param("file://{}/bucket/run", marks=pytest.mark.slow)]
)
def test_a_run_at_a_url_has_all_files_there_and_is_read_from_there(scheme, tmp_path, cache, alone):
    url = scheme.format(tmp_path)
    outcome = tlx.run(RECIPE, url, how=HOW)
    names_of_classes = outcome.task.names
    local = {path.relative_to(alone).as_posix() for path in alone.rglob("*") if path.is_file()}
    names = {name for name in local if "checkpoints" not in name and "tensorboard" not in name} - {".lock"}
    assert names | {WRITER} <= remote_files(url)
    steps = {name.split("/")[1] for name in remote_files(url) if name.startswith("checkpoints/")}
    assert steps == {"9", "12"}
    assert weights(outcome.folder) == weights(alone)
    # Another machine: it has no local folder.
    shutil.rmtree(cache)
    again = tlx.run(RECIPE, url, how=HOW, resume=True)
    assert again.result == outcome.result
    assert weights(again.folder) == weights(alone)
    shutil.rmtree(cache)
    opened = open_model(url)
    assert weights(opened.source) == weights(alone) and opened.task.names == names_of_classes
    with pytest.raises(FileExistsError, match=f"^{url} contains the run of this recipe, finished"):
        tlx.run(RECIPE, url, how=HOW)
    with pytest.raises(FileNotFoundError, match=r"there is no run at memory://bucket/rum"):
        open_model("memory://bucket/rum")


@pytest.fixture(scope="module")
def moments(alone, tmp_path_factory):
    """The folder of the run as it is at each copy: at the start, after the checkpoints 9 and 12, and at the end."""
    folder = tmp_path_factory.mktemp("moments")
    for n, (steps, result) in enumerate([((), False), (("9",), False), (("9", "12"), False), (("12",), True)]):
        shutil.copytree(alone, folder / str(n))
        for step in {"9", "12"} - {*steps}:
            shutil.rmtree(folder / str(n) / "checkpoints" / step)
        if not result:
            (folder / str(n) / "result.json").unlink()
    return sorted(folder.iterdir())


def become(folder, moment):
    """Write and delete files, until a folder has those of another one; equal ones stay untouched."""
    wanted = {path.relative_to(moment) for path in moment.rglob("*") if path.is_file()}
    for path in {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} - wanted:
        (folder / path).unlink()
    for path in wanted:
        if not (folder / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(moment / path, folder / path)


def copied(moments):
    """Copy the folder at each moment; return whether the store did not fail."""
    copy = RemoteRun("failing://bucket/run")
    copy.folder.mkdir(parents=True, exist_ok=True)
    for moment in moments:
        become(copy.folder, moment)
        try:
            copy.upload() if copy.claimed else copy.claim()
        except StorageError:
            return False
    return True


def test_a_copy_that_stops_anywhere_loses_at_most_the_last_checkpoint(cache, moments, alone):
    """Each write and each deletion fails once, with all that follow it; another machine reads what is there."""
    steps, last, done = [], 0, False
    while not done:
        FailingStore.store.clear()
        FailingStore.writes, FailingStore.last = 0, last
        done, last, FailingStore.last = copied(moments), last + 1, None
        read = RemoteRun("failing://bucket/run", "read")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DamagedWarning)
            read.download()
        assert all("was not copied completely" in str(warning.message) for warning in caught)
        # None of those that count is damaged, such as one that is half deleted.
        newest = max(Checkpoints(read.folder / "checkpoints").steps(), default=0)
        steps.append("finished" if (read.folder / "result.json").is_file() else newest)
        # The records of its steps are there before a checkpoint.
        assert not newest or read_metrics(read.folder) == read_metrics(alone)
    # Nothing that was there is lost by a later failure.
    assert [step for n, step in enumerate(steps) if n == 0 or step != steps[n - 1]] == [0, 9, 12, "finished"]


@pytest.mark.slow
def test_a_run_whose_store_fails_is_continued_by_another_machine(cache, alone):
    url = "failing://bucket/run"
    FailingStore.last = 40
    with pytest.raises(StorageError, match=r"failing://bucket/run cannot be written .* continue with --resume"):
        tlx.run(RECIPE, url, how=HOW)
    FailingStore.last = None
    steps = {int(name.split("/")[1]) for name in remote_files(url) if name.endswith("files.sha256")}
    assert steps
    assert max(steps) < 12
    shutil.rmtree(cache)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedWarning)
        outcome = tlx.run(RECIPE, url, how=HOW, resume=True)
    assert weights(outcome.folder) == weights(alone)


@pytest.fixture
def uploaded(cache, alone):
    """The URL of a run whose result was never copied: it has the checkpoints 9 and 12."""
    url = "memory://bucket/run"
    copy = RemoteRun(url)
    shutil.copytree(alone, copy.folder)
    (copy.folder / "result.json").unlink()
    copy.claim()
    shutil.rmtree(cache)
    return url


def test_a_half_copied_checkpoint_is_not_used_and_a_damaged_one_falls_back(uploaded, alone):
    store, root = fsspec.url_to_fs(uploaded)
    marker = store.cat_file(f"{root}/checkpoints/12/files.sha256")
    store.rm_file(f"{root}/checkpoints/12/files.sha256")
    with pytest.warns(DamagedWarning, match=r"^memory://bucket/run/checkpoints/12 was not copied completely"):
        assert RemoteRun(uploaded).download()
    checkpoints = RemoteRun(uploaded).folder / "checkpoints"
    assert Checkpoints(checkpoints).latest() == 9
    # A file system that is no object store may lose the end of a file.
    store.pipe_file(f"{root}/checkpoints/12/files.sha256", marker)
    name = max(store.find(f"{root}/checkpoints/12"), key=store.size)
    store.pipe_file(name, store.cat_file(name)[:-1])
    RemoteRun(uploaded).download()
    with pytest.warns(DamagedWarning, match="12 is damaged: .*; tlx skips it and uses an older checkpoint"):
        assert Checkpoints(checkpoints).latest() == 9
    with pytest.warns(DamagedWarning, match="12 is damaged"):
        outcome = tlx.run(RECIPE, uploaded, how=HOW, resume=True)
    assert weights(outcome.folder) == weights(alone)


def test_the_url_is_the_truth_and_not_what_a_machine_has_left(uploaded):
    """A machine that lost its network is ahead; the other one has continued."""
    copy = RemoteRun(uploaded)
    copy.download()
    (copy.folder / "checkpoints" / "9").rename(copy.folder / "checkpoints" / "15")
    (copy.folder / "metrics.jsonl").write_text("more\n")
    file = max((copy.folder / "checkpoints" / "12").rglob("*"), key=lambda path: path.stat().st_size)
    file.write_bytes(b"damaged")
    RemoteRun(uploaded).download()
    assert {path.name for path in (copy.folder / "checkpoints").iterdir()} == {"9", "12"}
    store, root = fsspec.url_to_fs(uploaded)
    for name in remote_files(uploaded) - {WRITER}:
        assert (copy.folder / name).read_bytes() == store.cat_file(f"{root}/{name}"), name


def test_only_changed_files_are_copied_and_other_files_stay(cache, alone):
    copy = RemoteRun("failing://bucket/run")
    shutil.copytree(alone, copy.folder)
    copy.claim()
    copy.store.pipe_file(f"{copy.root}/notes of the user.txt", b"mine")
    again = RemoteRun("failing://bucket/run")
    again.download()
    FailingStore.writes = 0
    again.upload()
    assert FailingStore.writes == 0
    run_files.delete(again.folder)
    again.upload()
    assert remote_files("failing://bucket/run") == {WRITER, "notes of the user.txt"}


def test_two_machines_do_not_write_at_one_url(cache, alone):
    url = "memory://bucket/run"
    first, second = RemoteRun(url, "first"), RemoteRun(url, "second")
    for copy in (first, second):
        shutil.copytree(alone, copy.folder, dirs_exist_ok=True)
        copy.claim()
    (first.folder / "metrics.jsonl").write_text("")
    with pytest.raises(InUse, match=rf"another process writes to {url} since"):
        first.upload()
    second.upload()
    store, root = fsspec.url_to_fs(url)
    assert store.cat_file(f"{root}/metrics.jsonl") == (alone / "metrics.jsonl").read_bytes()


def test_a_file_that_grows_while_it_is_copied_has_no_half_line(cache, alone):
    """Only the bytes that were there when it was listed are copied."""
    copy = RemoteRun("memory://bucket/run")
    shutil.copytree(alone, copy.folder)
    listed = copy.local()
    with (copy.folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 13, "na')
    copy.put("metrics.jsonl", listed["metrics.jsonl"][0])
    content = copy.store.cat_file(f"{copy.root}/metrics.jsonl")
    assert content == (alone / "metrics.jsonl").read_bytes() and json.loads(content.splitlines()[-1])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gss://bucket/run", ["the scheme 'gss' is unknown", "'gs'", "gs://bucket/run"]),
        ("memroy://run", ["the scheme 'memroy' is unknown", "memory"]),
        ("memory://", ["names no place"]),
        pytest.param("gs://bucket/run", ["needs the package gcsfs", "pip install 'tlx[gcs]'"]),
        pytest.param("s3://bucket/run", ["needs the package s3fs", "pip install 'tlx[s3]'"]),
    ],
)
def test_a_mistyped_or_missing_scheme_is_one_line(url, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A machine without the extras.
    for name in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "config.py").write_text(CONFIG)
    for line in (["run", "config.py", "--out", url], ["predict", url, "a text"], ["report", url]):
        outcome = CliRunner().invoke(main, line)
        assert outcome.exit_code == 2, outcome.output
        [message] = outcome.output.splitlines()
        assert all(word in message for word in words), message
    assert {path.name for path in tmp_path.iterdir()} <= {"config.py", "cache", "__pycache__"}


@pytest.mark.parametrize(
    ("place", "spelling"),
    [
        ("s3:/bucket/run", "s3://bucket/run"),
        ("s3:bucket/run", "s3://bucket/run"),
        ("gs:/bucket/run", "gs://bucket/run"),
        ("gcs:/bucket/run", "gcs://bucket/run"),
        ("http:/host/run", "http://host/run"),
        ("https:/host/run", "https://host/run"),
        ("file:/shared/run", "file:///shared/run"),
        ("memory:/run", "memory://run"),
    ],
)
def test_a_url_without_its_slashes_creates_no_folder(place, spelling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    outcome = CliRunner().invoke(main, ["run", "config.py", "--out", place])
    assert outcome.exit_code == 2 and outcome.output.count("\n") == 1, outcome.output
    assert place in outcome.output and outcome.output.endswith(f"{spelling}\n")
    for wrong in (place, Path(place)):
        with pytest.raises(ValueError, match=spelling):
            tlx.run(RECIPE, wrong, how=HOW)
    # Other commands write to no URL at all.
    for command in (["lr-find", "config.py", "--out", place], ["lr-find", "config.py", "--out", spelling]):
        outcome = CliRunner().invoke(main, command)
        assert outcome.exit_code == 2 and "only tlx run writes to a URL" in outcome.output, outcome.output
    assert {path.name for path in tmp_path.iterdir()} <= {"config.py", "cache", "__pycache__"}


def test_a_folder_whose_name_begins_as_a_url_does_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s3:/run").mkdir(parents=True)
    assert not is_url(Path("s3:/run")) and not is_url("./s3:/run") and not is_url(str(tmp_path / "s3:" / "run"))


@pytest.mark.parametrize("scheme", ["http", "https", "github"])
def test_a_url_that_can_only_be_read_is_one_line(scheme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    url = f"{scheme}://host/run"
    for line in (["run", "config.py", "--out", url], ["report", url]):
        outcome = CliRunner().invoke(main, line)
        assert outcome.exit_code == 2, outcome.output
        [message] = outcome.output.splitlines()
        assert url in message and "reading only" in message and "gs://bucket/run, s3://bucket/run" in message


CONFIG = """
from tlx import Data, Recipe, Train, models, tasks
def recipe():
    return Recipe(
        data=Data(target="digits", shots=8),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=12, batch=8, eval_batch=64, eval_every=3, select="best-validation"),
    )
"""


@pytest.mark.slow
def test_the_commands_take_a_url(tmp_path, monkeypatch, cache, alone):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    url = f"file://{tmp_path}/bucket/run"
    outcome = CliRunner().invoke(main, ["run", "config.py", "--out", url])
    assert outcome.exit_code == 0 and f"a copy is at {url}" in outcome.output, outcome.output
    shutil.rmtree(cache)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("digit.png")
    outcome = CliRunner().invoke(main, ["predict", url, "digit.png", "--quiet"])
    assert outcome.exit_code == 0 and "digit.png" in outcome.output, outcome.output
    monkeypatch.setattr("tlx.report.available", lambda: True)
    outcome = CliRunner().invoke(main, ["report", url])
    assert outcome.exit_code == 0, outcome.output
    assert "report.html" in remote_files(url)
    assert CliRunner().invoke(main, ["run", "config.py", "--out", url, "--resume"]).exit_code == 0
    outcome = CliRunner().invoke(main, ["study", "config.py", "--out", url])
    assert outcome.exit_code == 2 and "expected a directory" in outcome.output and url in outcome.output


def test_a_page_is_drawn_from_a_url_and_copied_to_it(cache, alone, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: True)
    url = "memory://bucket/run"
    copy = RemoteRun(url)
    shutil.copytree(alone, copy.folder)
    copy.claim()
    assert "report.html" not in remote_files(url)
    page = report.write(url)
    store, root = fsspec.url_to_fs(url)
    assert store.cat_file(f"{root}/report.html") == page.read_bytes()


def test_a_path_is_no_url():
    assert not any(map(is_url, ("runs/demo", "C:/runs", "org/model", "a:b", None)))
