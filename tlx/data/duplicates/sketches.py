"""Describe each input by a hash of its content and, for texts and images, by numbers that near duplicates share.

Shapes: N inputs, M inputs of which near duplicates are looked for, K numbers of a signature, G sequences of characters.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlx.assets import cache_dir
from tlx.data.examples import many, save_whole
from tlx.processors.columns import inputs
from tlx.processors.previews import resized

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.trees import Example

# The version of the stored sketches: a change of the rules needs a new number.
VERSION = 1
# Inputs of a split that are compared at the start of a run, and how much of them is looked at for near duplicates:
# characters, pixels or samples. This takes about 0.2 seconds.
COMPARED, LOOKED_AT = 10_000, 1_000_000
# Bytes of images or sounds that are read for it.
READ = 64 * 2**20
# Characters of a sequence; bands of a signature and the numbers of each; the characters hashed at a time.
WIDTH, BANDS, ROWS, CHUNK = 5, 12, 4, 1_000_000
# The side of a small image, and the bands of 16 bits of its hash.
SIDE, PLANES = 16, 8
# The similarities from which on two texts, and two images, are near duplicates.
ALIKE_TEXTS, ALIKE_IMAGES = 0.8, 0.99
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Sketch(NamedTuple):
    """The sketch of N inputs.

    `content` uint64[N] is a hash of each normalised text, or of the bytes of another input. `decoded` uint64[M] is a
    hash of the pixels or samples of the first M of them, and `signature` [M, K] what they have in common with near
    duplicates: uint32 minima of hashes of texts, or uint8 small images; K is 0 for other inputs. `kind` is "text",
    "image" or "". `empty` bool[N] marks texts without a visible character.
    """

    content: np.ndarray
    decoded: np.ndarray
    signature: np.ndarray
    kind: str
    empty: np.ndarray


def sample(examples: Examples, most: int = COMPARED) -> np.ndarray:
    """Return at most `most` positions of the examples, always the same, in a random order."""
    order = np.argsort(np.random.Generator(np.random.PCG64(0)).random(len(examples)), kind="stable")
    return order[:most]


def sketched(examples: Examples, positions: np.ndarray, looked_at: int | None = LOOKED_AT) -> Sketch:
    """Return the sketch of the inputs at these positions, as they lie on disk, before any perturbation.

    The sketch of data on disk is stored there, like their labels.

    Args:
        examples: The examples.
        positions: The positions in `examples`.
        looked_at: How many characters, pixels or samples to look at for near duplicates; None for all. At least 16
            inputs are looked at. Images and sounds are not decoded beyond it, and are then compared byte by byte; no
            more than `READ` bytes of them are read, so that the sketch may be of the first positions only.

    Raises:
        ValueError: An image or a sound cannot be read; the message names it.
    """
    rows = examples.rows[positions]
    digest = hashlib.sha256(rows.astype(np.int64).tobytes() + f"{VERSION} {looked_at}".encode()).hexdigest()[:16]
    if ("sketch", digest) in examples.measured:
        return examples.measured["sketch", digest]
    file = cache_dir() / "sketches" / f"{examples.key}-{examples.split}-{digest}.npy"
    if examples.key and file.is_file():
        sketch = unpacked(np.load(file, allow_pickle=False), kind_of(examples))
    else:
        sketch = computed(examples, rows, looked_at)
        if examples.key:
            save_whole(file, packed(sketch))
    examples.measured["sketch", digest] = sketch
    return sketch


def packed(sketch: Sketch) -> np.ndarray:
    """Return a sketch as one array of bytes. The first row is M; each other row is the content, the emptiness, the
    decoded content and the signature of an input."""
    count, near = len(sketch.content), len(sketch.decoded)
    signature = sketch.signature.view(np.uint8)
    table = np.zeros((count + 1, 17 + signature.shape[1]), np.uint8)
    table[0, :8] = np.array([near], np.uint64).view(np.uint8)
    table[1:, :8] = sketch.content.view(np.uint8).reshape(count, 8)
    table[1:, 8] = sketch.empty
    table[1 : 1 + near, 9:17] = sketch.decoded.view(np.uint8).reshape(near, 8)
    table[1 : 1 + near, 17:] = signature
    return table


def unpacked(table: np.ndarray, kind: str) -> Sketch:
    """Return the sketch that `packed` wrote."""
    near = int(number_of(table[:1, :8])[0])
    signature = np.ascontiguousarray(table[1 : 1 + near, 17:])
    return Sketch(
        number_of(table[1:, :8]),
        number_of(table[1 : 1 + near, 9:17]),
        signature.view(np.uint32) if kind == "text" else signature,
        kind,
        table[1:, 8] > 0,
    )


def number_of(table: np.ndarray) -> np.ndarray:
    """Return uint64[N] of uint8[N, 8]."""
    return np.ascontiguousarray(table).view(np.uint64)[:, 0]


def kind_of(examples: Examples) -> str:
    """Return "text" where all inputs are texts or words, "image" where the only input is an image, else ""."""
    kinds = {column.kind for column in inputs(examples.columns).values()}
    if kinds <= {"text", "words"}:
        return "text"
    return "image" if kinds == {"image"} and len(inputs(examples.columns)) == 1 else ""


def computed(examples: Examples, rows: np.ndarray, looked_at: int | None) -> Sketch:
    """Return the sketch of the inputs in these rows of the split."""
    kind = kind_of(examples)
    if kind == "text":
        texts = [normalised(record, examples) for record in records(examples, rows)]
        lengths = np.cumsum([len(text) for text in texts])
        near = len(texts) if looked_at is None else max(16, int(np.searchsorted(lengths, looked_at, side="right")))
        content = np.array([hash_of(text.encode("utf-8", "surrogatepass")) for text in texts], np.uint64)
        signature = signatures(texts[:near])
        return Sketch(content, content[: len(signature)], signature, kind, np.array([not text for text in texts], bool))
    bytes_hashes, hashes, small = list[int](), list[int](), list[np.ndarray]()
    seen = read = 0
    for place, (row, record) in enumerate(zip(rows.tolist(), records(examples, rows), strict=True)):
        if looked_at is not None and read > READ:
            break
        raw = raw_bytes(record, examples)
        read += len(raw)
        bytes_hashes.append(hash_of(raw))
        if looked_at is None or seen < looked_at or place < 16:
            arrays = decoded(record, examples, row)
            seen += sum(int(np.size(array)) for array in arrays if isinstance(array, np.ndarray))
            hashes.append(hash_of(b"".join(map(bytes_of, arrays))))
            small += [small_image(arrays[0])] if kind == "image" else []
    width = SIDE * SIDE if kind == "image" else 0
    signature = np.array(small, np.uint8).reshape(len(hashes), width)
    empty = np.zeros(len(bytes_hashes), bool)
    return Sketch(np.array(bytes_hashes, np.uint64), np.array(hashes, np.uint64), signature, kind, empty)


def records(examples: Examples, rows: np.ndarray) -> Iterator[Example]:
    """Yield the records at these rows of the split, as they lie on disk."""
    for start in range(0, len(rows), 4096):
        yield from many(examples.source, rows[start : start + 4096].tolist())


def normalised(record: Example, examples: Examples) -> str:
    """Return the texts of a record in one text, without regard to case, white space and Unicode forms."""
    parts = []
    for name, column in inputs(examples.columns).items():
        content = record.get(name)
        # A missing cell is an error where the example is read.
        if content is None:
            continue
        if column.kind == "words" and not isinstance(content, str | bytes):
            content = " ".join(map(str, content))
        text = bytes(content).decode("utf-8", "replace") if not isinstance(content, str) else content
        parts.append(re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip())
    return "\0".join(parts) if any(parts) else ""


def hash_of(content: bytes) -> int:
    """Return a 64-bit hash of bytes."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def signatures(texts: Sequence[str]) -> np.ndarray:
    """Return uint32[N, BANDS * ROWS]: for each of several hash functions its minimum over the sequences of `WIDTH`
    characters of a text, of which the ends are filled up, so that a changed letter changes as many sequences anywhere.

    Two texts have one minimum in common with the probability of their Jaccard similarity (Broder, 1997).
    """
    random = np.random.Generator(np.random.PCG64(0))
    factors = random.integers(1, 2**63, BANDS * ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
    minima = np.zeros((len(texts), BANDS * ROWS), np.uint32)
    fill = "\0" * (WIDTH - 1)
    for first, last in pieces([len(text) for text in texts]):
        part = texts[first:last]
        codes = np.frombuffer((fill + fill.join(part) + fill).encode("utf-32-le", "surrogatepass"), np.uint32)
        hashes = mixed(sequences(codes))
        starts = np.cumsum([0, *(len(text) + WIDTH - 1 for text in part[:-1])])
        for number, factor in enumerate(factors):
            values = ((hashes * factor) >> np.uint64(32)).astype(np.uint32)
            minima[first:last, number] = np.minimum.reduceat(values, starts)
    return minima


def pieces(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last place of runs of texts with about `CHUNK` characters together."""
    first = total = 0
    for place, length in enumerate(lengths):
        total += length
        if total >= CHUNK:
            yield first, place + 1
            first, total = place + 1, 0
    if first < len(lengths):
        yield first, len(lengths)


def sequences(codes: np.ndarray) -> np.ndarray:
    """Return uint64[G], a number for each sequence of `WIDTH` characters."""
    count = len(codes) - WIDTH + 1
    hashes = np.zeros(count, np.uint64)
    for place in range(WIDTH):
        hashes = hashes * np.uint64(0x100000001B3) + codes[place : place + count]
    return hashes


def mixed(hashes: np.ndarray) -> np.ndarray:
    """Return hashes in which every bit depends on every bit (the finaliser of splitmix64; Steele et al., 2014)."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * factor
    return hashes ^ (hashes >> np.uint64(31))


def decoded(record: Example, examples: Examples, row: int) -> list[Any]:
    """Return the inputs of a record as examples hold them: pixels, samples, texts, numbers."""
    return [
        examples.cell(record, column, name, row)
        for name, column in inputs(examples.columns).items()
        if record.get(name) is not None
    ]


def raw_bytes(record: Example, examples: Examples) -> bytes:
    """Return the inputs of a record as bytes, without decoding them."""
    return b"\0".join(bytes_of(record[name]) for name in inputs(examples.columns) if record.get(name) is not None)


def bytes_of(value: Any) -> bytes:
    """Return the bytes of an input. The samples of a sound are rounded to 16 bits, because files of other formats hold
    them in other types."""
    if isinstance(value, np.ndarray):
        samples = np.round(value * 32767).astype(np.int16) if value.dtype == np.float32 and value.ndim == 1 else value
        return f"{samples.dtype}{samples.shape}".encode() + samples.tobytes()
    if isinstance(value, bytes):
        return value
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else repr(value).encode()


def small_image(pixels: np.ndarray) -> np.ndarray:
    """Return uint8[SIDE * SIDE], the small grey version of uint8[H, W, C]."""
    small = resized(pixels, SIDE, SIDE)
    # The brightness of a colour (ITU-R BT.601).
    grey = small @ np.array([0.299, 0.587, 0.114]) if small.shape[-1] == 3 else small[..., 0]
    return np.rint(grey).astype(np.uint8).ravel()
