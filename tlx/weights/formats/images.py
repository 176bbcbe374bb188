"""Fields of config.json that the image models of `transformers` share."""

from collections.abc import Iterable, Iterator

from tlx.trees import Json


def image_size(document: Json, default: int = 224) -> int | tuple[int, int]:
    """Return `image_size`: the side of a square image, or (height, width)."""
    size = document.get("image_size") or default
    height, width = (size, size) if isinstance(size, int) else size
    return height if height == width else (height, width)


def written_size(size: int | tuple[int, int]) -> int | list[int]:
    """Return a size as config.json holds it."""
    return size if isinstance(size, int) else list(size)


def patch_side(document: Json, default: int) -> int:
    """Return `patch_size`. Raises ValueError for patches that are not square."""
    patch = document.get("patch_size") or default
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    if rows != columns:
        raise ValueError(f"config.json has patches of {rows}x{columns}; tlx supports square patches only")
    return int(rows)


def grouped(depths: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield (group, place within the group) of every block, for groups of `depths` blocks."""
    for group, depth in enumerate(depths):
        for place in range(depth):
            yield group, place
