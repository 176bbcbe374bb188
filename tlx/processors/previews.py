"""Small versions of images, for people to look at and for comparisons."""

from __future__ import annotations

import base64
import io

import numpy as np


def resized(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image, uint8[H, W, C], as uint8[height, width, 1 or 3]; of two or four channels the last is dropped."""
    from PIL import Image

    picture = Image.fromarray(array[..., :3] if array.shape[-1] > 2 else array[..., 0])
    small = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
    return small[..., None] if small.ndim == 2 else small


def data_uri(array: np.ndarray) -> str:
    """Return an image, uint8[H, W, C], as a data URI of a PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
