"""Measure methods older than deep adaptation on the same features: baselines that a trained model has to beat.

`methods` contains them, from features to classes; `comparing` measures them on a recipe's data. The document,
`classical.json`, contains

* `version` 1, `recipe` (its fingerprint), `source`, `target`, `weights`, `width` of the features;
* `examples`: the numbers of `source`, `target`, `granted` (with labels, of the last seed) and `test`;
* `seeds`: a row per seed with `seed`, `data` (the fingerprint) and `granted` (the indices of those labels);
* `methods`: a row per method with `name`, `about`, `accuracies` by seed, their mean `accuracy` with its 95 % interval
  `low` to `high` over seeds, `seconds`, `told` (further numbers, by seed), and, except for source-only, the
  `difference` from source-only: `mean`, `low`, `high` and `pairs` over seeds (`tlx.functional.significance.paired`),
  `examples_low` and `examples_high` over seeds and examples (`tlx.functional.significance.over_seeds_and_examples`);
* `predictions`: the names of the `classes`, `indices` and `labels` of the test examples, and `by_method` the predicted
  class of each, a row per seed;
* `notes`: sentences for the reader of the numbers.

An undefined number is null.
"""

from tlx.analysis.classical.comparing import DOCUMENT, compare
from tlx.analysis.classical.methods import BASE, METHODS

__all__ = ["BASE", "DOCUMENT", "METHODS", "compare"]
