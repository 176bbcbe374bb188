"""A tiny model of texts with its tokenizer, rows of reviews, and a run of `tlx.finetune` on them."""

import jax
import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

import tlx
from tlx import models, tuning
from tlx.processors import TextProcessor
from tlx.weights import Manifest, Pretrained, save_pretrained

GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "poor", "awful", "dull")
# Markup in a text and in the name of a class.
EVIL = "<script>alert(1)</script>"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, "a", "the", "film", "story", "and")


def text_model(folder):
    """Write a tiny BERT with a tokenizer of whole words, and return its folder."""
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    config = models.Bert(vocabulary=len(WORDS), positions=40, width=16, depth=1, heads=2, mlp=16)
    model = models.build(config)
    processor = TextProcessor(tokenizer, 40)
    variables = models.initialise(model, jax.random.key(0))
    save_pretrained(Pretrained(model, variables, processor, Manifest("tiny", {}, ())), folder)
    return folder


def review_rows(count=80):
    """Return a frame of reviews with their stars, and further columns."""
    rng = np.random.default_rng(0)
    words = [(GOOD, BAD)[n % 2][rng.integers(4)] for n in range(count)]
    return pd.DataFrame(
        {
            "id": [f"r{n}" for n in range(count)],
            "body": [f"a {word} film and the {word} story {n} {EVIL if n < 3 else ''}" for n, word in enumerate(words)],
            "stars": [("up", EVIL)[n % 2] for n in range(count)],
        }
    )


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory):
    return text_model(tmp_path_factory.mktemp("tiny") / "text")


@pytest.fixture(scope="session")
def reviews():
    return review_rows()


@pytest.fixture(scope="session")
def review_run(tiny_text, reviews, tmp_path_factory):
    """A run on the reviews: of the tiny model of texts, from a data frame."""
    out = tmp_path_factory.mktemp("runs") / "reviews"
    return tlx.finetune(
        tiny_text, train=reviews, text="body", label="stars", tuning=tuning.Full(), epochs=8, lr=1e-2, batch=8, out=out,
        quiet=True,
    )  # fmt: skip
