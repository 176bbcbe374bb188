"""The mutated subjects: directories that are built once, the command that reads each, and its answer.

The files of a subject are listed with the mutations that have a decidable outcome. `files` are glob patterns below its
directory; the first pattern that matches a file decides. `answer` is the output of the command, compared with that of
the intact directory.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import fuzz_mutators as m

SIZES = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "image_size", "patch_size", "num_channels", "num_virtual_tokens", "r",
}  # fmt: skip
# Fields that choose among valid forms: another type of value, or a missing value, names another valid model.
FREE_FIELDS = {"num_attention_heads"}
CONFIG = {"sizes": SIZES - {"num_attention_heads"}, "needed": ("model_type", "hidden_size", "vocab_size", "id2label")}
TOKENS = {"needed": ("model", "vocab", "type", "content", "id")}
PLAIN: dict[str, Any] = {}
OWN = (("*", m.mutated_bytes, PLAIN),)


class Subject(NamedTuple):
    """`arguments` of the command, in which {root} is the directory; `answer(root, output)` is its answer."""

    name: str
    weight: float
    files: tuple[tuple[str, Any, dict[str, Any]], ...]
    arguments: tuple[tuple[str, ...], ...]
    answer: Any


def printed(root, output):
    return output


def page(root, output):
    """Return the report without the parts that differ each time."""
    text = (root / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?", "", text)


def metrics(root, output):
    """Return the metrics of a run and its final weights."""
    result = json.loads((root / "result.json").read_text())
    return [result["metrics"], m_hash(root / "model" / "model.safetensors")]


def other_run(root, output):
    result = json.loads((root / "out" / "result.json").read_text())
    return [result["metrics"], m_hash(root / "out" / "model" / "model.safetensors")]


def exported(root, output):
    return [m_hash(path) for path in sorted((root / "exported").rglob("*")) if path.is_file()]


def search(root, output):
    return output.splitlines()[:2]


def m_hash(path):
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


TEXTS = ("a good film", "the worst of all, not good")
MODEL_FILES = (
    ("config.json", m.mutated_json, CONFIG | {"skip": ("label2id",)}),
    ("*.index.json", m.mutated_json, {"needed": ("weight_map",)}),
    ("tokenizer.json", m.mutated_json, TOKENS | {"skip": ()}),
    ("tokenizer_config.json", m.mutated_json, PLAIN),
    ("special_tokens_map.json", m.mutated_json, PLAIN),
    ("preprocessor_config.json", m.mutated_json, {"sizes": ("height", "width"), "finite": True}),
    ("adapter_config.json", m.mutated_json, {"sizes": ("r",), "needed": ("peft_type", "r", "target_modules")}),
    ("*.safetensors", m.mutated_tensors, PLAIN),
    ("vocab.txt", m.mutated_text, PLAIN),
    ("vocab.json", m.mutated_json, PLAIN),
    ("merges.txt", m.mutated_text, PLAIN),
)
RECORDS = (
    ("metrics.jsonl", m.mutated_lines, {"finite": False}),
    ("*.json", m.mutated_json, {"finite": False}),
    ("*.npz", m.mutated_binary, PLAIN),
)
PREDICT = ("predict", "{root}", *TEXTS, "--json")

SUBJECTS = (
    Subject("bert", 16, MODEL_FILES, (PREDICT,), printed),
    Subject("roberta", 7, MODEL_FILES, (PREDICT,), printed),
    Subject("lora", 7, (("adapter/*.json", *MODEL_FILES[6][1:]), ("adapter/*.safetensors", *MODEL_FILES[7][1:])),
            (PREDICT,), printed),
    Subject("vit", 8, MODEL_FILES, (("predict", "{root}", "{root}/picture.png", "--json"),), printed),
    Subject("picture", 4, (("picture.png", m.mutated_binary, PLAIN),),
            (("predict", "{root}", "{root}/picture.png", "--json"),), printed),
    Subject("texts", 2, (("texts.txt", m.mutated_text, PLAIN),),
            (("predict", "{root}", "{root}/texts.txt", "--json"),), printed),
    # A finished run: every byte has a digest.
    Subject("run-model", 8, OWN, (("predict", "{root}", "{root}/../picture.png", "--json"),), printed),
    Subject("run-page", 4, OWN, (("report", "{root}"),), page),
    # The same run without digests, as an older version wrote it: only the forms are checked.
    Subject("old-run", 10, RECORDS, (("report", "{root}"),), page),
    Subject("run-export", 3, OWN, (("export", "{root}", "{root}/exported"),), exported),
    Subject("checkpoint", 3, (("checkpoints/*", m.mutated_bytes, PLAIN), ("metrics.jsonl", *RECORDS[0][1:]),
                              ("recipe.json", *RECORDS[1][1:])),
            (("run", "{root}/config.py", "--out", "{root}", "--resume", "--quiet"),), metrics),
    Subject("cache", 1.5, (("cache/prefixes/*", m.mutated_bytes, PLAIN), ("cache/labels/*", m.mutated_binary, PLAIN)),
            (("run", "{root}/config.py", "--out", "{root}/out", "--quiet"),), other_run),
    Subject("data", 4, (("figures/1.0.0/*.json", m.mutated_json, {"needed": ("pythonClassName", "splits", "name")}),
                        ("figures/1.0.0/*", m.mutated_bytes, PLAIN)),
            (("run", "{root}/config.py", "--out", "{root}/out", "--quiet"),), other_run),
    Subject("study", 8, (("study.json", m.mutated_json, {"needed": ("cells", "fingerprint", "names")}),
                         ("cells/*/files.json", m.mutated_json, PLAIN), ("cells/*", m.mutated_bytes, PLAIN)),
            (("report", "{root}"), ("study", "none.py", "--out", "{root}", "--results")), printed),
    Subject("search", 3, (("search.json", m.mutated_json, PLAIN), ("journal.log", m.mutated_lines, PLAIN)),
            (("tune", "{root}/config.py", "--space", "{root}/space.py", "--trials", "2", "--sampler", "random",
              "--out", "{root}", "--quiet"),), search),
    Subject("python", 5, (("config.py", m.mutated_python, PLAIN),), (("show", "{root}/config.py"),), printed),
)  # fmt: skip

CONFIG_FILE = """from tlx import Data, Optim, Recipe, Train, models, tasks, tuning

def recipe():
    return Recipe(
        data=Data(target={target!r}, shots=2),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        tuning={tuning},
        optim=Optim(lr=0.01),
        train=Train(steps=3, batch=8, eval_batch=64, eval_every=1),
        seed=1,
    )
"""
SPACE = """from tlx.tune import log_uniform

def space():
    return {"optim.lr": log_uniform(0.001, 0.1)}
"""


def make_all(root: Path) -> None:
    """Build the directory of every subject below `root` if it is missing."""
    os.environ["TLX_CACHE"] = str(root / "cache")
    from click.testing import CliRunner

    from tlx.cli import main

    def call(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, (arguments, result.output, result.exception)

    make_texts(root)
    make_images(root)
    for name, target, tuning in (("run", "digits", "tuning.Full()"), ("checkpoint", "digits", "tuning.Full()")):
        folder = root / name
        folder.mkdir(parents=True)
        config = root / f"{name}.py"
        config.write_text(CONFIG_FILE.format(target=target, tuning=tuning))
        folder.rmdir()
        call("run", config, "--out", folder, "--quiet") if name == "run" else stopped(config, folder)
        shutil.copy(config, folder / "config.py") if name == "checkpoint" else None
    call("changes", root / "run")
    shutil.copytree(root / "run", root / "run-page")
    shutil.copytree(root / "run", root / "run-export")
    shutil.copytree(root / "run", root / "old-run")
    (root / "old-run" / "files.json").unlink(missing_ok=True)
    (root / "run").rename(root / "run-model")
    make_data(root)
    for name, target, tuning in (
        ("cache", "digits", "tuning.Freeze(through='stem')"),
        ("data", "figures", "tuning.Full()"),
        ("search", "digits", "tuning.Full()"),
        ("python", "digits", "tuning.Full()"),
    ):
        (root / name).mkdir(exist_ok=True)
        (root / name / "config.py").write_text(CONFIG_FILE.format(target=target, tuning=tuning))
    os.environ["TLX_CACHE"] = str(root / "cache" / "cache")
    call("run", root / "cache" / "config.py", "--out", root / "cache" / "first", "--quiet")
    shutil.rmtree(root / "cache" / "first")
    for name in ("tfds", "compiled"):
        shutil.rmtree(root / "cache" / "cache" / name, ignore_errors=True)
    shutil.rmtree(root / "search")
    (root / "search.py").write_text(CONFIG_FILE.format(target="digits", tuning="tuning.Full()"))
    (root / "space.py").write_text(SPACE)
    call("tune", root / "search.py", "--space", root / "space.py", "--trials", 2, "--sampler", "random", "--out",
         root / "search", "--quiet")  # fmt: skip
    shutil.copy(root / "search.py", root / "search" / "config.py")
    shutil.copy(root / "space.py", root / "search" / "space.py")
    make_study(root)


def stopped(config, folder):
    """A run that was interrupted after its second step, with a checkpoint."""
    import tlx
    from tlx.cli import load_recipe
    from tlx.records.progress import Progress

    step = Progress.step

    def stop(self, number, loss, rate):
        if number == 2:
            raise KeyboardInterrupt
        step(self, number, loss, rate)

    Progress.step = stop
    try:
        tlx.run(load_recipe(str(config), ())[1], folder, quiet=True)
    except KeyboardInterrupt:
        pass
    finally:
        Progress.step = step


def make_texts(root):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    import tlx
    from tlx.processors import TextProcessor

    words: Any = "[PAD] [UNK] [CLS] [SEP] [MASK] a good film the worst of all , not bad ##s ##t m"
    words = words.split(" ")
    raw = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    raw.decoder = decoders.WordPiece()
    tiny = {"width": 12, "depth": 2, "heads": 2, "mlp": 16, "positions": 40}
    bert = tlx.models.Bert(vocabulary=len(words), **tiny)
    save(root / "bert", bert, TextProcessor(raw, 32))
    (root / "bert" / "vocab.txt").write_text("\n".join(words) + "\n")
    settings = {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "pad_token": "[PAD]", "model_max_length": 32}
    (root / "bert" / "tokenizer_config.json").write_text(json.dumps(settings))
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": {"content": "[CLS]"}}
    (root / "bert" / "special_tokens_map.json").write_text(json.dumps(marks))
    shutil.copytree(root / "bert", root / "lora")
    shard(root / "bert")
    (root / "bert" / "texts.txt").write_text("\n".join(TEXTS))
    shutil.copytree(root / "bert", root / "texts")
    adapt(root / "lora")
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    raw.train_from_iterator(list(TEXTS) * 3, trainers.BpeTrainer(vocab_size=60, special_tokens=special))
    raw.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    roberta = tlx.models.Bert(family="roberta", vocabulary=raw.get_vocab_size(), types=1, pad=1, epsilon=1e-12, **tiny)
    save(root / "roberta", roberta, TextProcessor(raw, 32, pad_id=1))
    (root / "roberta" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))


def make_images(root):
    import numpy as np
    from PIL import Image

    import tlx
    from tlx.processors import ImageProcessor

    vit = tlx.models.Vit(size=8, patch=4, channels=3, width=12, depth=2, heads=2, mlp=16)
    save(root / "vit", vit, ImageProcessor(size=(8, 8)))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "vit" / "picture.png")
    Image.fromarray(pixels).save(root / "picture.png")
    shutil.copytree(root / "vit", root / "picture")


def save(folder, config, processor):
    import jax

    import tlx
    from tlx.weights import Manifest

    task = tlx.tasks.Classification(classes=3, names=("low", "middle", "high"))
    model = tlx.models.build(config, 3)
    variables = tlx.models.initialise(model, jax.random.key(0))
    tlx.save_pretrained(tlx.weights.Pretrained(model, variables, processor, Manifest("", {}, ()), task), folder)


def shard(folder):
    """The weights of a directory in two files and an index."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": sum(array.nbytes for array in tensors.values())}, "weight_map": {}}
    for n in range(2):
        name = f"model-0000{n + 1}-of-00002.safetensors"
        part = {key: array for key, array in sorted(tensors.items()) if hash_of(key) % 2 == n}
        save_file(part, folder / name, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def hash_of(text):
    return sum(text.encode())


def adapt(folder):
    """A LoRA adapter with its base, as `save_pretrained` writes it."""
    import jax

    import tlx
    from tlx.types import Variables

    base = tlx.load_pretrained(folder)
    grown = tlx.tuning.Lora(rank=2, on=r".*/(query|value)").insert(base.model, base.variables.params, jax.random.key(1))
    keys = iter(jax.random.split(jax.random.key(2), 100))
    drawn = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.random.normal(next(keys), leaf.shape) if path[-1].key == "b" else leaf, grown
    )
    tlx.save_pretrained(base._replace(variables=Variables(drawn, base.variables.stats)), folder)


def make_data(root):
    """A prepared data set of 90 digits that exists only on disk."""
    import numpy as np
    import tensorflow_datasets as tfds
    from sklearn.datasets import load_digits

    from tlx.data.datasets.images import GreyImages, Images

    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)

    class Figures(GreyImages, skip_registration=True):
        """Digits."""

        name, side, classes = "figures", 8, tuple(map(str, range(10)))

        def read(self):
            parts = {"train": slice(0, 60), "validation": slice(60, 80), "test": slice(80, 110)}
            return {name: Images(pixels[rows], digits.target[rows]) for name, rows in parts.items()}

    tfds.disable_progress_bar()
    (root / "data").mkdir()
    Figures(data_dir=str(root / "data"), file_format="array_record").download_and_prepare()


def make_study(root):
    import tlx
    from tlx.cli import load_recipe
    from tlx.study import run_study

    config = root / "base.py"
    config.write_text(CONFIG_FILE.format(target="digits", tuning="tuning.Full()"))
    base = load_recipe(str(config), ())[1]
    methods = tlx.choice("method", {"full": {}, "probe": {"tuning": tlx.tuning.Probe()}})
    study = tlx.Study(
        base=base,
        cells=tlx.prod(methods, tlx.param("seed", range(2))),
        question="Does it?",
        baseline={"method": "full"},
    )
    run_study(study, root / "study", quiet=True)
