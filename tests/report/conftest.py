"""Small real runs, shared by the tests of their reports."""

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import tensorflow_datasets as tfds

import tlx
from tlx import Data, Learn, Optim, Recipe, Train, config, models, report, tasks, tuning

collect_ignore_glob = [] if report.available() else ["test_*.py"]

EVIL = "</script><script>window.hit=1</script><img src=x onerror='window.hit=2'><b>bold</b> & \u2028 {{ 7*7 }}"


class Attacked(NamedTuple):
    folder: Path
    markup: str


class Brightness(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Grey squares with their brightness as the target."""

    VERSION = tfds.core.Version("1.0.0")
    # As in tlx/data/datasets/sentiment.py.
    url_infos: ClassVar = {}

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(4, 4, 1), dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.Scalar(np.float32),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(96, 0), "test": self._generate_examples(40, 1)}

    def _generate_examples(self, count, seed):
        from tlx.data.datasets.splits import png

        for n, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 4, 4), np.uint8)):
            yield n, {"image": png(pixels), "label": np.float32(pixels.mean() / 255)}


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A run with a frozen stage, selected by validation, with an override and enough steps for a smoothed curve."""
    base = Recipe(
        data=Data(target="digits"),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16, 16)),
        tuning=tuning.Rules(("stem/.*", None), (".*", Learn())),
        train=Train(steps=40, batch=16, eval_every=10, select="best-validation", criteria=("snd", "entropy")),
    )
    recipe = config.replace(base, optim=Optim(lr=3e-3))
    out = tmp_path_factory.mktemp("digits") / "run"
    return tlx.run(recipe, out, base=base, quiet=True)


@pytest.fixture(scope="session")
def brightness(tmp_path_factory):
    root = tmp_path_factory.mktemp("brightness")
    builder = Brightness(data_dir=str(root), file_format="array_record")
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    recipe = Recipe(
        data=Data(target=str(builder.data_dir)),
        task=tasks.Regression(),
        model=models.Mlp(inputs=(4, 4, 1), widths=(8,)),
        train=Train(steps=6, batch=16),
    )
    return tlx.run(recipe, root / "run", quiet=True)


@pytest.fixture
def attacked(digits, tmp_path):
    """The digits run with markup everywhere a data set, a file or a command line could have put it."""
    folder = tmp_path / "run"
    shutil.copytree(
        digits.folder, folder, ignore=shutil.ignore_patterns("checkpoints", "model", "report.html", "files.json")
    )
    documents = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("mistakes", "recipe", "result")}
    mistakes, recipe, result = documents.values()
    for field in ("text", "label"):
        mistakes[0][field] = EVIL
    mistakes[0]["answer"] = {EVIL: 0.75, "0": 0.25}
    mistakes[1]["image"] = "https://example.org/spy.png"
    recipe["command"] = EVIL
    recipe["changes"] = [[EVIL, EVIL, EVIL]]
    result["classes"][3] = EVIL
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    entries = [{"action": "reset", "path": "head/bias", "foreign": EVIL, "note": EVIL}]
    (folder / "weights.json").write_text(json.dumps({"source": EVIL, "entries": entries}))
    return Attacked(folder, EVIL)


@pytest.fixture(params=["digits", "brightness"])
def finished(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium that records its console and its network requests."""
    from selenium import webdriver

    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.fail("the browser tests need chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        quiet = [f"disable-{name}" for name in ("gpu", "background-networking", "component-update", "sync")]
        for switch in ("headless", "no-sandbox", "no-first-run", *quiet, f"user-data-dir={profile}"):
            options.add_argument(f"--{switch}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        built = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        yield built
        built.quit()


@pytest.fixture
def show(browser):
    """Return a function that opens a page, waits for its charts, and returns the requests and the console."""

    def opened(path):
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(path.as_uri())
        wait_for(browser, "return document.documentElement.dataset.drawn")
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        requested = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return requested, [entry["message"] for entry in browser.get_log("browser")]

    return opened


@pytest.fixture
def sized(browser):
    """Return a function that sets the width of the window; below 600 it is a phone."""

    def resize(width):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    yield resize
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture
def downloads(browser, tmp_path):
    """Return a function that presses a button of a figure and returns the text of the downloaded file."""
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})

    def pressed(figure, kind):
        file = tmp_path / f"{figure}.{kind}"
        file.unlink(missing_ok=True)
        button = browser.find_element("css selector", f"#figure-{figure} [data-save={kind}]")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
        button.click()
        end = time.monotonic() + 20
        while not (file.is_file() and file.stat().st_size) and time.monotonic() < end:
            time.sleep(0.1)
        return file.read_text(encoding="utf-8")

    return pressed


def wait_for(browser, script, seconds=60):
    end = time.monotonic() + seconds
    while not browser.execute_script(script) and time.monotonic() < end:
        time.sleep(0.1)
