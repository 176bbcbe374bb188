"""Regular expressions of the user: the results of `re`, in bounded time."""

import itertools
import random
import re
import time

import pytest

from tlx.files.patterns import Pattern, choices, compile_pattern
from tlx.files.patterns import parser as syntax

# fmt: off
SLOW = (
    "(a+)+b", "(a|a)*b", "(a*)*b", "(a|aa)+b", "(.*)*(.*)*x", "(a?){60}a{60}", r"(\w+\s?)*$x",
    ".*.*.*.*.*.*.*.*x", "(?=(a+)+b)a*",
)
# fmt: on


@pytest.mark.parametrize("pattern", SLOW)
def test_a_pattern_that_is_endless_in_re_is_answered_at_once(pattern):
    start = time.perf_counter()
    assert not compile_pattern(pattern).fullmatch("a" * 59)
    assert time.perf_counter() - start < 1.0


def test_the_automaton_gives_the_results_of_re():
    one = r"a b [ab] [^a] . (a|b) (?:ab)+ a? b{1,2} (a*)* ^ $ \b (?=a) (?!b) (?i:A) \w (ab|a)(b|) a+? \d"
    pieces = one.split(" ")
    texts = ["".join(letters) for n in range(5) for letters in itertools.product("ab1", repeat=n)]
    draw = random.Random(0)
    followed = 0
    for _ in range(150):
        pattern = "".join(draw.choices(pieces, k=draw.randint(1, 5)))
        compiled = Pattern(pattern)
        followed += compiled.automaton is not None
        for text in texts:
            assert compiled.fullmatch(text) == (re.fullmatch(pattern, text) is not None), (pattern, text)
    assert followed > 50


@pytest.mark.parametrize("pattern", [r"blocks/0[0-3]/.*", ".*", ".*/(query|value)/kernel", r"(stem|head)/.*"])
def test_ordinary_rules_are_passed_to_re(pattern):
    assert choices(syntax.parse(pattern)) <= 3
    assert Pattern(pattern).automaton is None


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "not a regular expression"),
        (r"(a)\1(b|c)*", "groupref"),
        ("((a{1000}){1000})*", "repeats too"),
        ("(" * 900 + "a" + ")" * 900, "nested too deeply"),
        ("a" * 5000, "at most 4,096"),
        ("a{99999999999999999999}", "repeats too often"),
    ],
)
def test_a_pattern_that_cannot_be_converted_is_refused_in_one_line(pattern, words):
    with pytest.raises(ValueError, match=words) as error:
        compile_pattern(pattern, "rule")
    assert str(error.value).startswith("rule ")
    assert "\n" not in str(error.value)
