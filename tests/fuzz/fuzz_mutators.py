"""Mutations of files, each determined by a random number generator: the changed content, and a description in words.

`free` mutations may give another valid document (a flipped bit of a number). They apply only to files that tlx wrote
and whose digests it knows. All other mutations are `strict`: the result is no valid document of its kind, or has the
same meaning.
"""

import json
import random
import struct

# JSON values of another type than the value that they replace.
WRONG = {
    "number": (True, "x", "12", [], {}, [[1]], {"a": None}),
    "bool": ("x", "true", [], {}, 2.5, 7),
    "string": (1, 2.5, True, [], {}, ["x"], {"a": 1}),
    "list": (1, "x", {}, True, {"0": 1}),
    "object": (1, "x", [], True, [1], 0.5),
    "null": (),
}
SIZES = (-1, 0, 10**6, 2**31, 2**40, 10**400)
DEEP = 3000


def kind_of(value):
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    kinds = {int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return kinds[type(value)]


def places(document, at=()):
    """Return every place in a JSON document, as a tuple of keys."""
    yield at
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*at, key))
    elif isinstance(document, list):
        for n, value in enumerate(document[:20]):
            yield from places(value, (*at, n))


def at(document, place):
    for key in place:
        document = document[key]
    return document


def put(document, place, value):
    if not place:
        return value
    at(document, place[:-1])[place[-1]] = value
    return document


def chosen_place(rng, document, least=1):
    """Return a random place: a random key at each level, because a vocabulary has more places than everything else."""
    place = ()
    while True:
        here = at(document, place)
        keys = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
        if not keys or (len(place) >= least and rng.random() < 0.35):
            return place
        place = (*place, rng.choice(keys))


# Mutations of bytes. Each returns (bytes, words), or None if it does not apply.


def truncated(rng, content):
    if len(content) < 2:
        return None
    size = rng.choice([1, len(content) // 2, len(content) - 1, rng.randrange(1, len(content))])
    return content[:size], f"cut to {size} of {len(content)} bytes"


def emptied(rng, content):
    return b"", "emptied"


def blanked(rng, content):
    return rng.choice([b" \n", b"\n", b"null", b"0", b'""', b"[]", b"true", b"{", b"}"]), "replaced by next to nothing"


def zeroed(rng, content):
    start = rng.randrange(len(content))
    size = rng.choice([1, 8, 512, len(content)])
    built = content[:start] + bytes(min(size, len(content) - start)) + content[start + size :]
    return (built, f"{size} bytes from {start} on set to zero") if built != content else None


def noise(rng, content):
    # Never UTF-8, because a few random letters are a valid text.
    size = rng.choice([3, 40, 4000])
    return b"\xff" + rng.randbytes(size - 1), f"replaced by {size} random bytes"


def marked(rng, content):
    return b"\xef\xbb\xbf" + content, "with a byte order mark"


def encoded(rng, content):
    name = rng.choice(["utf-16", "utf-32"])
    return content.decode("utf-8", "replace").encode(name), f"encoded as {name}"


def invalid(rng, content):
    place = rng.randrange(len(content) + 1)
    return content[:place] + b"\xff\xfe\x80" + content[place:], f"with bytes that are no UTF-8 at {place}"


def flipped(rng, content):
    built = bytearray(content)
    places = [rng.randrange(len(built)) for _ in range(rng.choice([1, 1, 8]))]
    for place in places:
        built[place] ^= 1 << rng.randrange(8)
    return (bytes(built), f"bits flipped at {places}") if bytes(built) != content else None


def cut_out(rng, content):
    if len(content) < 8:
        return None
    start = rng.randrange(len(content) - 4)
    size = rng.choice([1, 4, 64, len(content) // 3])
    return content[:start] + content[start + size :], f"{size} bytes taken out at {start}"


def doubled(rng, content):
    return content + content, "written twice"


# Mutations of JSON documents. Each returns (text, words) or None.


def wrong_type(rng, document, how):
    place = chosen_place(rng, document, least=0 if rng.random() < 0.1 else 1)
    if how.get("skip") and any(str(key) in how["skip"] for key in place):
        return None
    pool = WRONG[kind_of(at(document, place))]
    # A single number for all channels is valid too.
    if place[-1:] in (("image_mean",), ("image_std",)):
        pool = [value for value in pool if kind_of(value) != "number"]
    if not pool:
        return None
    value = rng.choice(pool)
    return json.dumps(put(document, place, value)), f"{place} = {value!r}"


def wrong_size(rng, document, how):
    sizes = [place for place in places(document) if place and place[-1] in how.get("sizes", ())]
    if not sizes:
        return None
    place, value = rng.choice(sizes), rng.choice(SIZES)
    text = json.dumps(put(document, place, "SIZE")).replace('"SIZE"', str(value) if value < 10**100 else "9" * 5000)
    return text, f"{place} = {value if value < 10**100 else 'a number of 5000 digits'}"


def deleted(rng, document, how):
    known = [place for place in places(document) if place and place[-1] in how.get("needed", ())]
    if not known:
        return None
    place = rng.choice(known)
    del at(document, place[:-1])[place[-1]]
    return json.dumps(document), f"{place} deleted"


def renamed(rng, document, how):
    known = [place for place in places(document) if place and place[-1] in how.get("needed", ())]
    if not known:
        return None
    place = rng.choice(known)
    parent = at(document, place[:-1])
    parent[f"{place[-1]}x"] = parent.pop(place[-1])
    return json.dumps(document), f"{place} renamed"


def deep(rng, document, how):
    place = chosen_place(rng, document)
    depth = rng.choice([70, 990, DEEP, 100_000])
    opened, closed = rng.choice([("[", "]"), ('{"a":', "}")])
    inner = opened * depth + "1" + closed * depth
    text = json.dumps(put(document, place, "DEEP")).replace('"DEEP"', inner)
    return text, f"{place} nested {depth} deep"


def twice(rng, document, how):
    if not isinstance(document, dict) or not document:
        return None
    key = rng.choice(list(document))
    if how.get("skip") and key in how["skip"]:
        return None
    text = json.dumps(document)
    return text[:-1] + f", {json.dumps(key)}: {json.dumps(rng.choice([1, 'x', [], None, True]))}}}", f"{key!r} twice"


def not_a_number(rng, document, how):
    numbers = [p for p in places(document) if kind_of(at(document, p)) == "number" and p]
    if not numbers or not how.get("finite", True):
        return None
    place, word = rng.choice(numbers), rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "0x10", "01", "+1", "1."])
    return json.dumps(put(document, place, "WORD")).replace('"WORD"', word), f"{place} = {word}"


def surrogate(rng, document, how):
    texts = [p for p in places(document) if kind_of(at(document, p)) == "string" and p]
    if not texts:
        return None
    place = rng.choice(texts)
    return json.dumps(put(document, place, "HALF")).replace('"HALF"', '"\\ud800"'), f"{place} is half a character"


BYTES = (truncated, truncated, emptied, blanked, noise, marked, encoded, invalid)
FREE = (truncated, flipped, flipped, zeroed, cut_out, doubled, emptied, noise)
JSON = (wrong_type, wrong_type, wrong_type, wrong_type, wrong_size, wrong_size, deleted, deleted, renamed, deep, twice,
        not_a_number, surrogate)  # fmt: skip


def mutated_json(rng, content, how):
    """Return the strict mutations of a JSON file."""
    for _ in range(20):
        if rng.random() < 0.3:
            built = rng.choice(BYTES)(rng, content)
        else:
            actual = rng.choice(JSON)(rng, json.loads(content), how)
            built = None if actual is None else (actual[0].encode("utf-8", "surrogatepass"), actual[1])
        # An added blank gives the same document, so nothing changed.
        if built is not None and built[0] != content:
            return built
    return truncated(rng, content)


def mutated_lines(rng, content, how):
    """Mutate a file of JSON lines: one line as a document, or the bytes of the file."""
    lines = content.decode().splitlines()
    if rng.random() < 0.4 or not lines:
        return rng.choice((emptied, noise, marked, encoded, invalid))(rng, content)
    n = rng.randrange(len(lines))
    line, words = mutated_json(rng, lines[n].encode(), how)
    built = [text.encode() for text in lines]
    built[n] = line
    return b"\n".join(built) + b"\n", f"line {n + 1}: {words}"


def mutated_bytes(rng, content, how):
    """Mutations that may leave a valid file of tlx."""
    while (built := rng.choice(FREE)(rng, content)) is None or built[0] == content:
        pass
    return built


def mutated_binary(rng, content, how):
    """Return the strict mutations of a binary file without a checksum."""
    for _ in range(9):
        if (built := rng.choice((truncated, truncated, emptied, noise, blanked))(rng, content)) and built[0] != content:
            return built
    return emptied(rng, content)


def mutated_text(rng, content, how):
    """Return the strict mutations of a text file."""
    return rng.choice((emptied, noise, marked, encoded, invalid))(rng, content)


# Mutations of safetensors.

DTYPES = ("F16", "F64", "I32", "I8", "U8", "BOOL", "BF16", "F8_E4M3", "X", "", 3, None)


def mutated_tensors(rng, content, how):
    """Mutate a safetensors file: header fields, bytes, numbers that are not finite."""
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    name, kind = rng.choice(names), rng.randrange(13)
    entry = header[name]
    begin, end = entry["data_offsets"]
    if kind == 0:
        entry["dtype"] = rng.choice([dtype for dtype in DTYPES if dtype != entry["dtype"]])
        words = f"{name}: dtype {entry['dtype']!r}"
    elif kind == 1:
        shape = list(entry["shape"])
        entry["shape"] = rng.choice([[*shape, 1], [-1], [0], shape[:-1], ["x"], 3, None, [2**62, 4], [*shape, 7]])
        if entry["shape"] == shape:
            return truncated(rng, content)
        words = f"{name}: shape {entry['shape']}"
    elif kind == 2:
        entry["data_offsets"] = rng.choice(
            [[end, begin], [begin], [begin, end + 4], [-4, end], ["a", "b"], [2**63, 2**64], None, [begin + 4, end + 4]]
        )
        words = f"{name}: data_offsets {entry['data_offsets']}"
    elif kind == 3:
        del entry[rng.choice(list(entry))]
        words = f"{name}: a field deleted"
    elif kind == 4:
        header[f"{name}x"] = header.pop(name)
        words = f"{name} renamed"
    elif kind == 5:
        del header[name]
        words = f"{name} taken out of the header"
    elif kind == 6:
        length = rng.choice([0, 1, size - 1, size + 1, size + 4096, 2**40, 2**63, 2**64 - 1])
        return struct.pack("<Q", length) + content[8:], f"header length {length} for {size}"
    elif kind == 7 and end - begin >= 4:
        place = begin + 4 * rng.randrange((end - begin) // 4)
        word = rng.choice([0x7FC00000, 0x7F800000, 0xFF800000])
        data = data[:place] + struct.pack("<I", word) + data[place + 4 :]
        words = f"{name}: a number that is not finite"
    elif kind == 8:
        header[name] = rng.choice([1, "x", [], None, {}])
        words = f"{name} = {header[name]!r}"
    elif kind == 9:
        data = data + bytes(rng.choice([1, 64]))
        words = "bytes after the end"
    elif kind == 10:
        text = json.dumps(header)[:-1] + f', "{name}": {json.dumps(header[rng.choice(names)])}}}'
        if json.loads(text) == header:
            return truncated(rng, content)
        return struct.pack("<Q", len(text)) + text.encode() + data, f"{name} twice in the header"
    elif kind == 11:
        depth = rng.choice([200, DEEP])
        text = json.dumps(header)[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}"
        return struct.pack("<Q", len(text)) + text.encode() + data, f"a header nested {depth} deep"
    else:
        return rng.choice((truncated, truncated, emptied, noise, blanked))(rng, content)
    text = json.dumps(header)
    return struct.pack("<Q", len(text)) + text.encode() + data, words


# Mutations of Python files and of arguments.

SLIPS = (
    ("def recipe", "def recipee"), ("(", "(("), (")", ""), (":", ""), ("return", "retrun"), ("import", "imprt"),
    ("Train(", "Train(stpes=3, "), ("    ", "  "), ("tlx", "tlxx"), ("models.", "model."),
    ("Classification(", "Regressoin("),
    ("'''", "'"), ("steps=3", "steps='3'"), ("steps=3", "steps=-3"), ("batch=8", "batch=0"),
    ("widths=(8,)", "widths=8"),
    ("return", "raise KeyError('x')\n    return"), ("return", "1 / 0\n    return"), ("return", "exit(0)\n    return"),
    ("return", "return None and"), ("def recipe()", "def recipe(x)"),
    ("def recipe", "import nothing_there\ndef recipe"),
    ("def recipe", "raise SystemExit(3)\ndef recipe"), ("return", "return return"), ("digits", "digitz"),
    ("inputs=(8, 8, 1)", "inputs=(8, 'a', 1)"), ("classes=10", "classes=10**40"), ("widths=(8,)", "widths=(0,)"),
    ("return", "assert False\n    return"), ("return", "[].pop()\n    return"),
    ("def recipe", "def recipe():\n  pass\n "),
    ("lr=0.01", "lr=float('nan')"), ("lr=0.01", "lr=-1"), ("seed=1", "seed=-1"), ("seed=1", "seed=1.5"), ("8)", "8"),
)  # fmt: skip


def mutated_python(rng, content, how):
    """Typing errors in a Python file, and bytes that are not Python."""
    if rng.random() < 0.3:
        return rng.choice((noise, encoded, invalid, blanked))(rng, content)
    text = content.decode()
    while True:
        old, new = rng.choice(SLIPS)
        if old in text:
            return text.replace(old, new, 1).encode(), f"{old!r} -> {new!r}"


def generator(seed):
    return random.Random(f"tlx {seed}")
