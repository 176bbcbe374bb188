"""The frame of every page: one file, no network, templates that escape, and a policy that the browser enforces.

The drawing libraries come from vl_convert's bundle, are built once and kept in the cache folder. The page's content
security policy lists its scripts by their hashes and forbids every connection, so that neither a text from a data set
nor a mistake in a template can run or load anything.
"""

import base64
import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tlx.assets import cache_dir
from tlx.files.durable import write_whole
from tlx.report import words
from tlx.trees import Json


def render(template: str, *, scripts: Sequence[str] = ("page.js",), **context: Any) -> str:
    """Return the page of a template that extends `base.html`. All of `context` is escaped; `scripts` are files of
    the templates' folder that the page runs."""
    written = [libraries(), *map(text, scripts)]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in written]
    policy = "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(f"'sha256-{digest}'" for digest in digests),
            # Vega styles its drawings inline. Styles cannot use the network, as images and fonts may not be loaded.
            "style-src 'unsafe-inline'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    frame = {"policy": policy, "scripts": written, "style": text("style.css")}
    return environment().get_template(template).render(**frame, **context)


def write(path: Path, page: str) -> Path:
    """Write a page whole or not at all."""
    write_whole(path, [page.encode()])
    return path


@cache
def environment() -> Any:
    """Return the templates of this folder. An undefined name in a template is an error."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("tlx.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    names = ("metric", "number", "percent", "count", "size", "duration", "shape", "source")
    templates.filters |= {name: getattr(words, name) for name in names} | {"plain": plain}
    return templates


def text(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def plain(value: object) -> Any:
    """Return the value as JSON can represent it: numbers that are not finite become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def libraries() -> str:
    """Return Vega, Vega-Lite and Vega-Embed in one script, which defines `vegaEmbed`.

    Building it takes seconds, so it is kept in the cache folder.
    """
    import altair
    import vl_convert

    schema_version = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    versions = vl_convert.get_vegalite_versions()
    # Another minor version than Altair's draws the same charts; another major one may not.
    version = (
        schema_version
        if schema_version in versions
        else [name for name in versions if name.split(".")[0] == schema_version.split(".")[0]][-1]
    )
    path = cache_dir() / "pages" / f"vega-{metadata.version('vl-convert-python')}-{version}.js"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    # Neither sequence may occur in an inline script, and a browser hashes lines that end in a single character.
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version)
    for old, new in (("</script", "<\\/script"), ("<!--", "<\\!--"), ("\r\n", "\n"), ("\r", "\n")):
        script = script.replace(old, new)
    # The file only saves time: a full or read-only disk must not cost a page.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".js", delete=False, encoding="utf-8") as stream:
            stream.write(script)
        os.replace(stream.name, path)
    return script


def specification(page: str) -> dict[str, Json]:
    """Return the drawings of a page by name, as its own script reads them: for tests, and to recover the data."""
    specifications = {}
    for piece in page.split('<script type="application/json" data-figure="')[1:]:
        name, _, rest = piece.partition('">')
        specifications[name] = json.loads(rest.partition("</script>")[0])
    return specifications
