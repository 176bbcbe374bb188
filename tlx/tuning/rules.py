"""Tune by the user's rules."""

from dataclasses import dataclass

from tlx.tuning.base import Tuning
from tlx.types import Learn, Model, Phase, Rule


@dataclass(frozen=True, init=False)
class Rules(Tuning):
    """`Rules((regex, Learn | None), ...)`: fullmatch on the whole path, the first match wins, None freezes.

    >>> Rules((r"stem/.*", None), (r".*", Learn(lr=0.3)))
    Rules(rules=(('stem/.*', None), ('.*', Learn(lr=0.3, weight_decay=None, schedule=None))))
    """

    chooses = True

    rules: tuple[Rule, ...]

    def __init__(self, *args: Rule, rules: tuple[Rule, ...] = ()) -> None:
        ordered = tuple(args) or tuple(rules)
        for rule in ordered:
            pair = isinstance(rule, tuple) and len(rule) == 2
            if not pair or not isinstance(rule[0], str) or not isinstance(rule[1], Learn | None):
                raise TypeError(f"a rule is {rule!r}; expected (regex, Learn(...) or None)")
        if not ordered:
            raise ValueError("Rules() requires at least one rule")
        object.__setattr__(self, "rules", ordered)

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return (Phase(1.0, self.rules),)
