"""Compare written texts with true texts: exact match, BLEU and ROUGE.

The counts of BLEU of all texts add up to those of a corpus, so resamples and comparisons of runs need no text.

Shapes: N texts, L bytes of the longest text.
"""

import math
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from tlx.functional.scores import Scores

# The longest n-grams that BLEU counts.
ORDERS = 4
# The kinds of ROUGE: overlaps of words and of pairs of words, the longest common subsequence, and that by line.
ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
# The score with the texts that evaluation has written, as `packed` stores them.
WRITTEN = "written"
# No byte of a text in UTF-8.
PADDING = 0xFF


def check_installed(names: Collection[str]) -> None:
    """Raise ImportError, which names the extra, where the package of one of these metrics is missing."""
    packages = {"sacrebleu": ("bleu",), "rouge_score": ROUGES}
    for package, metrics in packages.items():
        needed = [name for name in metrics if name in names]
        if needed and find_spec(package) is None:
            raise ImportError(f"the metric {needed[0]} needs {package.replace('_', '-')}: pip install 'tlx[text]'")


def same_text(text: str, truth: str) -> bool:
    """Return whether two texts are equal, whatever their white space; case and punctuation count.

    >>> same_text(" the  cat", "the cat"), same_text("The cat", "the cat")
    (True, False)
    """
    return text.split() == truth.split()


def packed(texts: Sequence[str]) -> np.ndarray:
    """Return texts as one array of their bytes in UTF-8, uint8[N, L], filled with `PADDING`."""
    # A tokenizer of bytes may write half a character.
    rows = [np.frombuffer(text.encode("utf-8", "replace"), np.uint8) for text in texts]
    array = np.full((len(rows), max(map(len, rows), default=0)), PADDING, np.uint8)
    for number, row in enumerate(rows):
        array[number, : len(row)] = row
    return array


def unpacked(array: np.ndarray) -> list[str]:
    """Return the texts that `packed` has stored.

    >>> unpacked(packed(["", "naïve", "a"]))
    ['', 'naïve', 'a']
    """
    return [bytes(row[row != PADDING]).decode("utf-8") for row in np.asarray(array, np.uint8)]


def bleu_counts(texts: Sequence[str], truths: Sequence[str]) -> dict[str, np.ndarray]:
    """Count the n-grams of each text as `sacrebleu` does, with its default tokenizer (13a), upper and lower case apart.

    Args:
        texts: The written texts, N.
        truths: The true texts, N.

    Returns:
        `bleu_matches` [N, 4], the number of n-grams of 1 to 4 words that the true text has too, `bleu_totals` [N, 4],
        the number of all n-grams, and `bleu_lengths` [N, 2], the words of the written and of the true text.

    Raises:
        ImportError: `sacrebleu` is missing.
    """
    check_installed(("bleu",))
    from sacrebleu.metrics import BLEU

    # The setting changes the score of a text, which is not read, and no count.
    counter = BLEU(effective_order=True)
    counts = [counter.sentence_score(text, [truth]) for text, truth in zip(texts, truths, strict=True)]
    return {
        "bleu_matches": np.array([count.counts for count in counts], np.int32).reshape(-1, ORDERS),
        "bleu_totals": np.array([count.totals for count in counts], np.int32).reshape(-1, ORDERS),
        "bleu_lengths": np.array([(count.sys_len, count.ref_len) for count in counts], np.int32).reshape(-1, 2),
    }


def bleu(scores: Scores) -> float:
    """Compute BLEU of a corpus (Papineni et al., 2002), from 0 to 100, from the scores of `bleu_counts`.

    It is the geometric mean of the shares of matching n-grams, times exp(1 - true words / written words) where fewer
    words are written. As in `sacrebleu`, the k-th order without a match counts 1 / 2^k matches, and BLEU is 0 where no
    word matches and where no written text has four words.
    """
    matches, totals, (written, true) = (
        np.asarray(scores[f"bleu_{name}"], np.float64).sum(0) for name in ("matches", "totals", "lengths")
    )
    if not matches.any() or not totals.all():
        return 0.0
    without = np.cumsum(matches == 0)
    shares = 100.0 * np.where(matches == 0, 0.5**without, matches) / totals
    brevity = math.exp(1 - true / written) if written < true else 1.0
    return min(100.0, brevity * math.exp(sum(map(math.log, shares.tolist())) / ORDERS))


def rouge(texts: Sequence[str], truths: Sequence[str], kinds: Sequence[str]) -> dict[str, np.ndarray]:
    """Compute ROUGE of each text (Lin, 2004), the F1 of `rouge-score` without a stemmer.

    Args:
        texts: The written texts, N.
        truths: The true texts, N.
        kinds: Some of `ROUGES`.

    Returns:
        By kind a score from 0 to 1 for each text, float64[N].

    Raises:
        ImportError: `rouge-score` is missing.
    """
    check_installed(kinds)
    from rouge_score.rouge_scorer import RougeScorer

    scorer: Any = RougeScorer(list(kinds))
    rows = [scorer.score(truth, text) for text, truth in zip(texts, truths, strict=True)]
    return {kind: np.array([row[kind].fmeasure for row in rows], np.float64) for kind in kinds}
