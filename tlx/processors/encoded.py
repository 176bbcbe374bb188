"""Open an encoded picture: its size is checked before it is decoded, and every fault is one line that names it."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow warns above this, and refuses twice as many.
MOST_PIXELS = 89_478_485
# The warning says what the error of `open_picture` says.
warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")


def open_picture(content: bytes, name: str = "this image") -> Image:
    """Decode a picture.

    Args:
        content: The bytes of a PNG, a JPEG or another format that Pillow reads.
        name: Its name in errors: the file, or the place in a data set.

    Returns:
        The picture, decoded.

    Raises:
        ValueError: The bytes are no picture, are cut short or damaged, or describe more than `MOST_PIXELS` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is not a readable image ({len(content):,} bytes); expected PNG, JPEG or another format of Pillow: "
            "convert it"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        count = re.search(r"\d+", str(error))
        pixels = f"{int(count[0]):,} pixels" if count else "too many pixels"
        raise ValueError(f"{name} has {pixels}; expected at most {MOST_PIXELS:,}: reduce its size") from None
    except Exception as error:  # each format's reader has its own kinds
        raise damaged(name, error) from None
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{name} has {width:,} x {height:,} pixels; expected at most {MOST_PIXELS:,}: reduce its size")
    if min(width, height) < 1:
        raise ValueError(f"{name} has {width} x {height} pixels; expected at least one pixel")
    try:
        picture.load()
    except Exception as error:
        raise damaged(name, error) from None
    return picture


def damaged(name: str, error: Exception) -> ValueError:
    """Return the error for a damaged picture."""
    reason = " ".join(str(error).split())[:80] or type(error).__name__
    return ValueError(f"{name} is damaged ({reason}); expected a complete image: copy it from its source again")


def has_frames(path: Path, head: bytes) -> bool:
    """Return whether a file holds several frames or pages, of which only the first one is read.

    The second picture of a JPEG, which a camera adds as a preview, does not count.

    Args:
        path: The file.
        head: Its first bytes, at least 4,096, or all of a shorter file.
    """
    from PIL import Image

    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return head[12:16] == b"VP8X" and bool(head[20] & 2)
    if head[:8] == b"\x89PNG\r\n\x1a\n" and b"IDAT" in head:
        # The chunk of an animation lies before the pixels.
        return b"acTL" in head[: head.index(b"IDAT")]
    if head[:3] != b"GIF" and head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG"):
        return False
    try:
        with Image.open(path) as picture:
            return bool(getattr(picture, "is_animated", False))
    except Exception:  # decoding says what is wrong
        return False
