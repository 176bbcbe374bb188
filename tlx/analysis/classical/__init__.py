"""What methods older than deep adaptation make of the same features: baselines that a trained model has to beat.

`methods` has them, from features to classes; `comparing` measures them on a recipe's data. The document that comes of
it, `classical.json`, holds

* `version` 1, `recipe` (its fingerprint), `source`, `target`, `weights`, `width` of the features;
* `examples`: how many of `source`, `target`, `granted` (with labels, of the last seed) and `test`;
* `seeds`: a row a seed with `seed`, `data` (the fingerprint) and `granted` (the indices of those labels);
* `methods`: a row a method with `name`, `about`, `accuracies` by seed, their mean `accuracy` with its 95 % interval
  `low` to `high` over seeds, `seconds`, `told` (numbers of its own, by seed), and, but for source-only, the
  `difference` from that: `mean`, `low`, `high` and `pairs` over seeds (`tlx.functional.significance.paired`),
  `examples_low` and `examples_high` over seeds and examples (`tlx.functional.significance.over_seeds_and_examples`);
* `predictions`: the names of the `classes`, `indices` and `labels` of the test examples, and `by_method` the class of
  each, a row a seed;
* `notes`: sentences that a reader of the numbers needs.

A number that is not defined is null.
"""

from tlx.analysis.classical.comparing import DOCUMENT, compare
from tlx.analysis.classical.methods import BASE, METHODS

__all__ = ["BASE", "DOCUMENT", "METHODS", "compare"]
