"""Copy a pinned source archive from the package indexes that pip is configured with, without pip.

pip builds a source archive even where it only downloads it: it runs the archive's `setup.py` and installs setuptools
for that. This module reads the same indexes (PEP 503) and copies the file. The caller compares its sha256.
"""

import os
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

# The default index of pip, for which pip has no public function.
DEFAULT = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
# The longest wait for an answer, in seconds.
TIMEOUT = 60.0


class _Links(HTMLParser):
    """The addresses of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def settings() -> dict[str, str]:
    """Return pip's settings by their plain name, as `pip config list` shows them."""
    command = [sys.executable, "-P", "-m", "pip", "config", "list", "--disable-pip-version-check"]
    output = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
    options: dict[str, str] = {}
    # A section of a command is stronger than `global`, the environment stronger than both.
    for section in ("global.", "download.", ":env:."):
        lines = [line.removeprefix(section) for line in output.splitlines() if line.startswith(section)]
        options |= {name: value.strip().strip("'\"") for name, _, value in (line.partition("=") for line in lines)}
    return options


def copy(package: str, filename: str, folder: Path) -> Path:
    """Copy the file of a package from the first index that has it into `folder`, and return its path.

    Raises:
        LookupError: No index has the file; the message lists the answer of each index.
    """
    options = settings()
    context = ssl.create_default_context(cafile=options.get("cert") or None)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    messages = []
    for page in pages(package, options):
        try:
            address = link(opener, page, filename)
            if address is None:
                messages.append(f"{hide_password(page)} does not list this file")
                continue
            with opener.open(address, timeout=TIMEOUT) as stream, (folder / filename).open("wb") as target:
                while piece := stream.read(2**20):
                    target.write(piece)
            return folder / filename
        except (urllib.error.URLError, TimeoutError, ValueError) as error:
            messages.append(f"{hide_password(page)}: {getattr(error, 'reason', error)}")
    raise LookupError("; ".join(messages) or "pip is configured without a package index (no-index)")


def pages(package: str, options: dict[str, str]) -> list[str]:
    """Return the pages that may list the files of a package: `find-links`, then the indexes."""
    addresses = [
        place if "://" in place else Path(place).absolute().as_uri() for place in _words(options, "find-links")
    ]
    if options.get("no-index", "0").lower() in ("1", "true", "yes", "on"):
        return addresses
    name = re.sub(r"[-_.]+", "-", package).lower()
    indexes = [options.get("index-url") or default(), *_words(options, "extra-index-url")]
    return [*addresses, *(f"{index.rstrip('/')}/{name}/" for index in indexes)]


def default() -> str:
    """Return the address of pip's default index.

    Raises:
        LookupError: pip is not installed.
    """
    command = [sys.executable, "-P", "-c", DEFAULT]
    process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if process.returncode:
        raise LookupError("pip is not installed in the environment of tlx, so its package index is unknown")
    return process.stdout.strip()


def link(opener: urllib.request.OpenerDirector, page: str, filename: str) -> str | None:
    """Return the address of a file that a page lists, None where the page does not list it."""
    if page.startswith("file:"):
        place = Path(urllib.request.url2pathname(urlsplit(page).path))
        if (place / filename).is_file():
            return (place / filename).as_uri()
        place = place / "index.html" if place.is_dir() else place
        if not place.is_file():
            return None
        page, text = place.as_uri(), place.read_text(encoding="utf-8", errors="replace")
    else:
        request = urllib.request.Request(page, headers={"Accept": "text/html"})
        with opener.open(request, timeout=TIMEOUT) as stream:
            page, text = stream.geturl(), stream.read().decode("utf-8", errors="replace")
    links = _Links()
    links.feed(text)
    addresses = [urljoin(page, href) for href in links.found]
    return next(
        (address for address in addresses if unquote(urlsplit(address).path).rpartition("/")[2] == filename), None
    )


def hide_password(address: str) -> str:
    """Return an address without the password that it may contain."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _words(options: dict[str, str], name: str) -> list[str]:
    return [os.path.expanduser(word) for word in options.get(name, "").replace("\\n", " ").split()]
