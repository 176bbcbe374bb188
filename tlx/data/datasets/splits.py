"""Assign examples to splits by the data alone: no random state, so every machine agrees."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence

import numpy as np

SHARES: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}


def place(identity: str) -> float:
    """Return a number in [0, 1) that depends on `identity` alone and looks random: the first 8 bytes of its sha256."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64


def by_hash(identity: str, shares: Mapping[str, float] = SHARES) -> str:
    """Return the split of one example. Examples with one identity (a document, say) share a split."""
    where, edge = place(identity), 0.0
    for name, share in shares.items():
        edge += share
        if where < edge:
            return name
    return name


def stratified(
    labels: Sequence[int] | np.ndarray, name: str, shares: Mapping[str, float] = SHARES
) -> dict[str, np.ndarray]:
    """Return the positions of each split, in order. Every class is divided by `shares`. `name` seeds the order of the
    data set."""
    labels = np.asarray(labels)
    places = np.array([place(f"{name}/{position}") for position in range(len(labels))])
    parts: dict[str, list[np.ndarray]] = {split: [] for split in shares}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(places[members], kind="stable")]
        edges = np.round(np.cumsum(list(shares.values())) * len(members)).astype(int)
        for split, part in zip(shares, np.split(members, edges[:-1]), strict=True):
            parts[split].append(part)
    return {split: np.sort(np.concatenate(part)) for split, part in parts.items()}


def png(image: np.ndarray) -> io.BytesIO:
    """Return uint8[H, W] as a PNG file object. TFDS stores such bytes unchanged, but would encode an array by
    TensorFlow."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file
