"""Compare answers in words, as the official script of SQuAD 2.0 does (Rajpurkar, Jia and Liang, 2018)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Return a text in lower case without ASCII punctuation, without English articles, with single spaces.

    >>> normalised("The  cat's (old) hat, an hour")
    'cats old hat hour'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact(answer: str, truths: Sequence[str]) -> float:
    """Return 1 if an answer equals one of the true answers after `normalised`, else 0.

    Args:
        answer: The answer; "" for no answer.
        truths: The true answers. Those that are empty after `normalised` do not count. If none is left, the right
            answer is no answer.
    """
    return max(float(normalised(truth) == normalised(answer)) for truth in counted(truths))


def overlap(answer: str, truths: Sequence[str]) -> float:
    """Return the largest F1 of the words of an answer and of a true answer, after `normalised`.

    Where one of the two has no words, it is 1 if the other has none either, else 0. The arguments are as in `exact`.
    """
    return max(word_f1(normalised(answer).split(), normalised(truth).split()) for truth in counted(truths))


def counted(truths: Sequence[str]) -> list[str]:
    """Return the true answers that count; [""] where the right answer is no answer."""
    return [truth for truth in truths if normalised(truth)] or [""]


def word_f1(answer: Sequence[str], truth: Sequence[str]) -> float:
    """Return F1 of two bags of words."""
    if not answer or not truth:
        return float(answer == truth)
    common = (Counter(answer) & Counter(truth)).total()
    return 2.0 * common / (len(answer) + len(truth))
