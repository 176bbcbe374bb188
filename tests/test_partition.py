"""Rules over paths."""

import math

import pytest

from tlx import Data, Learn, Recipe, models, tasks, tuning
from tlx.partition import frozen_stages, partition, split
from tlx.training.prepare import prepare
from tlx.trees import flatten, map_named, merge

DENSE = {"kernel": 0.0, "bias": 0.0}
NORM = {"scale": 0.0, "bias": 0.0}
BLOCK = {
    "attention": dict.fromkeys(("query", "key", "value", "output"), DENSE) | {"norm": NORM},
    "mlp": {"in": DENSE, "out": DENSE, "norm": NORM},
}
BERT = {
    "stem": {"words": {"embedding": 0.0}, "positions": {"embedding": 0.0}, "norm": NORM},
    "blocks": {f"{n:02d}": BLOCK for n in range(6)},
    "pool": DENSE,
    "head": DENSE,
}
SMALL = {
    "stem": {"bias": 1},
    "blocks": {f"{n:02d}": {"kernel": n, "bias": n} for n in range(12)},
    "head": {"kernel": 2},
}
REST = (r".*", Learn())


def refused(params, *rules):
    with pytest.raises(ValueError) as error:
        partition(params, rules)
    return str(error.value)


def test_a_rule_must_match_the_whole_path():
    parts = partition(SMALL, ((r"blocks/0[0-3]/.*", None), REST))
    assert [path for path, learn in parts.items() if learn is None] == [
        f"blocks/0{n}/{leaf}" for n in range(4) for leaf in ("bias", "kernel")
    ]
    # `search` would match every bias by the first rule, `match` everything in the stem by the second.
    assert refused(SMALL, (r"bias", None), REST).startswith("rule 'bias' matches no parameter")
    assert refused(SMALL, (r"stem", None), REST).startswith("rule 'stem' matches no parameter")


def test_the_first_rule_that_matches_wins():
    slow, fast = Learn(lr=0.1), Learn(lr=10.0)
    parts = partition(SMALL, ((r"blocks/00/bias", fast), (r".*/bias", None), (r"blocks/.*", slow), REST))
    assert parts["blocks/00/bias"] == fast
    assert parts["blocks/01/bias"] is None
    assert parts["blocks/01/kernel"] == slow
    assert parts["head/kernel"] == Learn()
    assert parts.keys() == flatten(SMALL).keys()


def test_a_negative_rate_or_decay_is_refused():
    message = "rule 'stem/.*' has lr=-1; expected a learning rate multiplier, finite and 0 or more"
    assert refused(SMALL, (r"stem/.*", Learn(lr=-1)), REST) == message
    assert refused(SMALL, (r"stem/.*", Learn(lr=math.nan)), REST) == message.replace("-1", "nan")
    assert refused(SMALL, (r"stem/.*", Learn(weight_decay=-0.5)), REST) == (
        "rule 'stem/.*' has weight_decay=-0.5; expected a weight decay, finite and 0 or more"
    )
    assert partition(SMALL, ((r"stem/.*", Learn(lr=0.0, weight_decay=0.0)), REST))["stem/bias"] == Learn(0.0, 0.0)
    # Values that a tuning passes on are checked here too.
    recipe = Recipe(
        data=Data(target="digits"), task=tasks.Classification(classes=10), model=models.Mlp(inputs=(8, 8, 1)),
        tuning=tuning.Lora(rank=1, on="stem", weight_decay=-0.1),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"rule '\.\*/lora/a' has weight_decay=-0\.1; expected"):
        prepare(recipe)


def test_a_rule_that_matches_nothing_names_the_nearest_paths():
    assert refused(BERT, (r"block/.*", None), REST) == ("rule 'block/.*' matches no parameter; close: 'blocks/.*'")
    assert refused(BERT, (r"blocks/06/.*", None), REST) == (
        "rule 'blocks/06/.*' matches no parameter; close: 'blocks/00', 'blocks/01'"
    )
    assert refused(BERT, (r"pol/.*", None), REST).startswith("rule 'pol/.*' matches no parameter; close: 'pool/.*'")
    assert refused(BERT, (r"heads/.*", None), REST).startswith("rule 'heads/.*' matches no parameter; close: 'head/.*'")


def test_a_rule_whose_matches_are_taken_names_the_earlier_rule():
    selected = (r"blocks/.*", None), (r"blocks/.*/bias", Learn()), REST
    assert refused(SMALL, *selected) == (
        "rule 'blocks/.*/bias' has no effect: the earlier 'blocks/.*' already took its 12 matches; move it up"
    )
    assert refused(SMALL, (r"head/.*", None), (r"head/kernel", Learn()), REST) == (
        "rule 'head/kernel' has no effect: the earlier 'head/.*' already took its 1 match; move it up"
    )
    assert refused(SMALL, (r"blocks/0.*", None), (r"blocks/1.*", None), (r"blocks/.*/bias", Learn()), REST) == (
        "rule 'blocks/.*/bias' has no effect: the earlier 'blocks/0.*', 'blocks/1.*' already took its 12 "
        "matches; move it up"
    )
    assert refused(SMALL, REST, (r"head/.*", None)) == (
        "rule 'head/.*' has no effect: the earlier '.*' already took its 1 match; move it up"
    )


def test_every_parameter_must_be_matched():
    assert refused(SMALL, (r"blocks/.*", Learn())) == (
        "no rule matches 2 of 26 parameters: 'head/kernel', 'stem/bias'; "
        "end the rules with (r'.*', Learn()) or (r'.*', None)"
    )
    assert refused(SMALL, (r"head/.*", Learn())).startswith(
        "no rule matches 25 of 26 parameters: 'blocks/00/bias', 'blocks/00/kernel', 'blocks/01/bias', ...; end"
    )
    assert refused(SMALL).startswith("no rule matches 26 of 26 parameters")


def test_something_must_be_trainable():
    assert refused(SMALL, (r".*", None)).startswith("all 26 parameters are frozen, because no rule with Learn(...)")


def test_an_invalid_regular_expression_is_named():
    assert refused(SMALL, (r"blocks/(", None), REST) == (
        "rule 'blocks/(' is not a regular expression: missing ), unterminated subpattern at position 7"
    )


@pytest.mark.parametrize("rules", [(REST,), ((r".*/bias", None), REST), ((r"head/.*", Learn()), (r".*", None))])
def test_merge_is_the_inverse_of_split(rules):
    parts = partition(SMALL, rules)
    trainable, frozen = split(SMALL, parts)
    assert merge(trainable, frozen) == SMALL
    assert flatten(trainable).keys() == {path for path, learn in parts.items() if learn is not None}
    assert not flatten(trainable).keys() & flatten(frozen).keys()


def test_a_stage_is_frozen_only_if_all_its_parameters_are_frozen():
    stages = ["stem", "blocks/00", "blocks/01", "pool", "head"]
    tree = {"stem": DENSE, "blocks": {"00": DENSE, "01": DENSE}, "head": DENSE}
    parts = partition(tree, ((r"stem/.*", None), (r"blocks/0./bias", None), (r"blocks/00/.*", None), REST))
    # A stage without parameters (here the pooling) has nothing frozen, so it runs as in training.
    assert frozen_stages(stages, parts) == {"stem", "blocks/00"}
    assert frozen_stages(stages, partition(tree, (REST,))) == frozenset()
    # A stage that computes with the parameters of another one is frozen with them.
    for path, frozen in (("stem", True), ("blocks/00", True), ("blocks/01", False), ("head", False)):
        assert ("pool" in frozen_stages(stages, parts, {"pool": (path,)})) == frozen
    assert "head" not in frozen_stages(stages, parts, {"head": ("stem",)})


def test_a_stage_whose_name_begins_another_name_is_not_confused_with_it():
    tree = map_named(lambda path, leaf: path, {"norm": DENSE, "norm2": DENSE})
    parts = partition(tree, ((r"norm/.*", None), REST))
    assert frozen_stages(["norm", "norm2"], parts) == {"norm"}
