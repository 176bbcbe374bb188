"""A run's folder keeps the git commit of the config's directory and a copy of the config; it works without git."""

import os
import subprocess

import pytest

from tlx import Data, Recipe, models, tasks
from tlx.records import run_directory
from tlx.records.origin import commit_of

RECIPE = Recipe(data=Data(target="digits"), task=tasks.Classification(), model=models.Mlp())


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a config in a folder, after its first commit; the user's own settings of git have no effect."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "project" / "configs").mkdir(parents=True)
    (tmp_path / "project" / "configs" / "mine.py").write_text("# the first version\n")
    run_git(tmp_path / "project", "init", "--quiet")
    run_git(tmp_path / "project", "add", ".")
    run_git(tmp_path / "project", "commit", "--quiet", "--message", "first")
    return tmp_path / "project"


def run_git(folder, *words):
    author = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    return subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_commit_of_a_folder_in_the_repository(repository):
    commit = run_git(repository, "rev-parse", "HEAD").strip()
    assert commit_of(repository / "configs") == {"commit": commit, "dirty": False}
    # A file that git does not track, such as a run, changes nothing.
    (repository / "notes.txt").write_text("new")
    assert commit_of(repository / "configs") == {"commit": commit, "dirty": False}
    (repository / "configs" / "mine.py").write_text("# changed\n")
    assert commit_of(repository) == {"commit": commit, "dirty": True}


def test_without_a_repository_a_commit_or_git_there_is_no_entry(repository, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    assert commit_of(tmp_path / "elsewhere") is None
    assert commit_of(tmp_path / "nosuch") is None
    run_git(tmp_path / "elsewhere", "init", "--quiet")
    assert commit_of(tmp_path / "elsewhere") is None
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert commit_of(repository) is None


def test_the_folder_of_a_run_has_the_commit_and_the_config(repository, tmp_path):
    config = repository / "configs" / "mine.py"
    run_directory.claim(tmp_path / "run", RECIPE, overwrite=False, file=config, with_commit=True)
    document = run_directory.read(tmp_path / "run", run_directory.RECIPE)
    assert document["git"] == commit_of(repository)
    assert (tmp_path / "run" / "config.py").read_text() == "# the first version\n"
    # The copy itself may be the config of the run that replaces it.
    copy = tmp_path / "run" / "config.py"
    run_directory.claim(tmp_path / "run", RECIPE, overwrite=True, file=copy, with_commit=True)
    assert copy.read_text() == "# the first version\n"
    assert "git" not in run_directory.read(tmp_path / "run", run_directory.RECIPE)
    # Neither is part of the fingerprint.
    run_directory.claim(tmp_path / "other", RECIPE, overwrite=False)
    documents = [run_directory.read(tmp_path / name, run_directory.RECIPE) for name in ("run", "other")]
    assert documents[0]["fingerprint"] == documents[1]["fingerprint"] == document["fingerprint"]


def test_a_run_without_a_file_has_the_commit_of_the_working_directory(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    run_directory.claim(tmp_path / "run", RECIPE, overwrite=False, with_commit=True)
    assert run_directory.read(tmp_path / "run", run_directory.RECIPE)["git"] == commit_of(repository)
    assert not (tmp_path / "run" / "config.py").exists()
