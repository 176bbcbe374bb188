"""The published recipes: what they state, and two steps on generated data of the same form with small networks."""

import ast
import zlib
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tlx import config, models, tasks
from tlx.cli import load_recipe
from tlx.cli.user_files import function_of
from tlx.objectives import Supervised
from tlx.recipe import OWN
from tlx.training.prepare import open_data, prepare
from tlx.trees import map_named
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, save_pretrained

FOLDER = Path(__file__).parents[1] / "configs" / "published"
# The module that the recipes of domain adaptation share.
SHARED = "adaptation"
CONFIGS = sorted(path for path in FOLDER.glob("*.py") if path.stem != SHARED)
each = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
VIT = models.Vit(size=16, patch=8, width=12, depth=2, heads=3, mlp=20)
RESNET = models.ResNet(size=32, stem=4, widths=(4,), depths=(1,), bottleneck=False)
# Small networks of the families, under the names of the hub.
NETWORKS = {
    "vit_base_patch32_224.augreg_in21k": (VIT, "vit"),
    "vit_base_patch16_224.mae": (VIT, "vit"),
    "resnet50.tv_in1k": (RESNET, "resnet"),
    "resnet101.tv_in1k": (RESNET, "resnet"),
}
SMALL = ("train.steps=2", "train.batch=4")
CHANGES = {
    "imagenet_384": ("data.size=24", "data.before_crop=28", "weights.resize=24", "data.validation=0.2"),
    "imagenet_224": ("data.size=16", "data.before_crop=18", "data.validation=0.2"),
    "vtab": ("data.size=32",),
}
DOMAINS = ("data.size=32", "data.before_crop=(36, 36)")
# The numbers of each published table that its docstring must have: the means.
PUBLISHED = {
    "imagenet_384": ("83.27", "83.22", "83.33", "five repeats"),
    "imagenet_224": ("83.57", "0.08", "four seeds"),
    "vtab": ("66.37", "43.14"),
    "office31": ("79.5", "83.7", "86.1", "87.7", "89.6"),
    "office_home": ("58.4", "61.4", "65.2", "68.8", "69.7", "72.4"),
    "visda": ("51.7", "66.4", "79.5", "80.1", "82.0", "83.6"),
    "domainnet": ("43.3", "48.4", "47.2", "49.9", "51.8", "48.9"),
}
CELLS = {"vtab": 19 * 4, "office31": 6 * 6 * 3, "office_home": 12 * 6, "visda": 6, "domainnet": 12 * 6}


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(zlib.crc32(str(path).encode())).integers(0, 256, (30, 41, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_lists(folder, images, lists):
    """Write eight pictures of two classes for each of the `lists` of files, below the folder `images`."""
    for path in lists:
        names = [f"{images}/{n % 2}/{path.stem}_{n:06}.jpg" for n in range(8)]
        for name in names:
            picture(folder / name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name} {n % 2}\n" for n, name in enumerate(names)))


def write_data(folder):
    """Write a few pictures of two or three classes in the form of each data set."""
    for n in range(24):
        for split in ("train", "val"):
            picture(folder / "imagenet" / split / f"n0{n % 3}" / f"{n}.JPEG")
    places = [f"office31/{domain}/images" for domain in ("amazon", "dslr", "webcam")]
    places += [f"office-home/{domain}" for domain in ("Art", "Clipart", "Product", "Real_World")]
    for place in (*places, "visda-2017/train", "visda-2017/validation"):
        for n in range(8):
            # VisDA has a class "train".
            picture(folder / place / ("bike", "train")[n % 2] / f"frame_{n:04}.jpg")
    task, net = folder / "vtab-1k" / "caltech101", folder / "domainnet"
    write_lists(task, "images", [task / f"{name}.txt" for name in ("train800", "val200", "train800val200", "test")])
    for domain in ("clipart", "painting", "real", "sketch"):
        write_lists(net, domain, [net / "image_list" / f"{domain}_{split}.txt" for split in ("train", "test")])


def write_network(cache, name, architecture, kind):
    """Write a network of random numbers into a cache of the hub, under the name of a model of timm."""
    model, rng = models.build(architecture, 5), np.random.default_rng(0)
    variables = Variables(
        map_named(lambda _, leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), model.params),
        map_named(lambda _, leaf: rng.uniform(0.5, 2, leaf.shape).astype(np.float32), model.stats),
    )
    manifest = Manifest("random", {"model_type": kind}, ())
    repository = cache / f"models--timm--{name}"
    task = tasks.Classification(classes=5, names=tuple("abcde"))
    save_pretrained(Pretrained(model, variables, None, manifest, task), repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A working directory with the data, and a cache of the hub with the networks."""
    import huggingface_hub.constants

    folder = tmp_path_factory.mktemp("published")
    write_data(folder / "data")
    for name, network in NETWORKS.items():
        write_network(folder / "hub", name, *network)
    # Most of the time is compilation, so the compiler optimises little.
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setenv("TLX_OFFLINE", "1")
        yield folder
    jax.config.update("jax_disable_most_optimizations", before)


def study_of(path):
    return function_of(str(path), "study", "study")()


def small(name, recipe=None):
    """Return a published recipe, or another cell of its study, for small pictures and two steps."""
    changes = (*SMALL, *CHANGES.get(name, DOMAINS))
    recipe = load_recipe(str(FOLDER / f"{name}.py"), ())[1] if recipe is None else recipe
    if recipe.objective[1:] and hasattr(recipe.objective[1], "width"):
        changes += ("objective.1.width=16",)
    return config.override_all(recipe, dict(change.split("=", 1) for change in changes), OWN)


@each
def test_the_docstring_has_the_command_the_published_numbers_and_that_it_was_not_run(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring.splitlines()[0].endswith(".")
    for part in (
        f"tlx run configs/published/{path.name}",
        "Not run here. Published",
        "The data: ",
        *PUBLISHED[path.stem],
    ):
        assert part in docstring
    # The differences of domain adaptation are stated in one place.
    shared = (FOLDER / f"{SHARED}.py").read_text(encoding="utf-8")
    assert "What differs" in (shared if f"{SHARED}.py" in docstring else docstring)
    if path.stem in CELLS:
        assert f"tlx study configs/published/{path.name}" in docstring


@each
def test_a_recipe_is_checked_and_is_read_back_from_its_document(path):
    base, recipe = load_recipe(str(path), ())
    config.check(recipe)
    assert base == recipe and config.load(config.dump(recipe), OWN, recipe) == recipe


# A change of a recipe, or of the defaults of a class, is another experiment.
FINGERPRINTS = {
    "domainnet": "bad2c80f507b7382",
    "imagenet_224": "f1ad891208f98d90",
    "imagenet_384": "dd0bc261b95bbd2e",
    "office31": "c99a12c5e9b7ab20",
    "office_home": "573e780bfc3c2556",
    "visda": "c7a1fa5f5b63fe7c",
    "vtab": "dda774b3c11de0dd",
}


@each
def test_its_fingerprint_stays(path):
    assert config.fingerprint(load_recipe(str(path), ())[1]) == FINGERPRINTS[path.stem]


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_of_a_study_is_checked_and_its_own_experiment(name):
    study = study_of(FOLDER / f"{name}.py")
    assert len(study.by_fingerprint) == CELLS[name]
    for cell in study.by_fingerprint.values():
        config.check(cell.recipe)
    # Every pair of domains, and every task, has the same cells.
    column = "task" if name == "vtab" else "method"
    counts = Counter(cell.names[column] for cell in study.by_fingerprint.values())
    assert len(set(counts.values())) == 1
    methods = {cell.recipe.objective[1:] for cell in study.by_fingerprint.values()}
    assert len(methods) == (1 if name == "vtab" else 6)


@pytest.mark.parametrize("name", ["office31", "office_home", "visda", "domainnet"])
def test_the_domains_are_read_without_labels_of_the_target_and_all_of_it_is_tested(name, workplace):
    recipe = small(name)
    splits = open_data(recipe)
    assert set(splits.streams) == {"source", "unlabelled"}
    assert len(splits.streams["source"]) == len(splits.streams["unlabelled"]) == len(splits.test) == 8
    assert not splits.streams["unlabelled"].labelled
    names = {"domainnet": tuple(map(str, range(345))), "office31": ("images/bike", "images/train")}
    assert splits.classes == names.get(name, ("bike", "train"))


def test_the_schedule_and_the_reversal_are_those_of_the_library():
    """At step i the rate is lr (1 + gamma i) ** -0.75, and the reversal 2 / (1 + exp(-i / 1000)) - 1."""
    from tlx.objectives.ramp import current
    from tlx.optim import rate
    from tlx.types import Tick

    recipe = load_recipe(str(FOLDER / "office31.py"), ())[1]
    for step in (0, 500, 7_000):
        actual = float(rate(recipe.optim, np.float32(step), np.float32(recipe.train.steps)))
        assert actual == pytest.approx(0.01 * (1 + 1e-3 * step) ** -0.75, rel=1e-5)
        tick = Tick(np.float32(step / recipe.train.steps), None)
        factor = float(current(recipe.objective[1].reversal, tick))
        assert factor == pytest.approx(2 / (1 + np.exp(-step / 1_000)) - 1, abs=1e-5)


def test_the_hidden_layer_and_the_classifier_learn_ten_times_as_fast(workplace):
    recipe = small("office31")
    ready = prepare(recipe, open_data(recipe))
    assert ready.model.params["neck"]["kernel"].shape == (4, 256)
    for path, learn in ready.parts(0).partition.items():
        if not path.startswith("dann/"):
            assert learn.lr == (1.0 if path.startswith(("neck/", "head/")) else 0.1), path
            assert learn.weight_decay == 1e-3


@pytest.mark.slow
@each
def test_it_takes_two_steps(path, workplace, two_steps):
    ready = two_steps(small(path.stem))
    assert ready.manifest.source in [f"timm/{name}" for name in NETWORKS]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["source only", "DAN", "CDAN", "MDD", "MCC"])
def test_every_method_takes_two_steps(method, workplace, two_steps):
    cells = study_of(FOLDER / "visda.py").by_fingerprint.values()
    recipe = next(cell.recipe for cell in cells if cell.names["method"] == method)
    assert (recipe.objective == (Supervised(on="source"),)) == (method == "source only")
    two_steps(small("visda", recipe))
