"""Describe data as a model will see them: `tlx data`.

`measure` returns a document of JSON values, from which `tlx.report.data` draws a page:

* `fields`: each column of the data set with its kind, the columns of the table that it comes from, and its missing
  cells; `unused` columns with their type.
* `splits` and `counts`: examples by split and class, or the numbers of the labels; `imbalance` of the training labels.
* `sizes`: lengths of texts, sizes of images, seconds of sounds, and what truncation cuts.
* `shown`: some examples before and after processing and augmentation.
* `duplicates`: exact and near duplicates within and across splits (see `tlx.data.duplicates`), with examples.
* `doubts`: labels that a cross-validated classifier contradicts (confident learning; Northcutt et al., 2021).
* `distances` of sources from the target, with intervals.
* `notes`: sentences on what is unusual.

`card` puts the document together; each other module measures one part.
"""

from tlx.analysis.data.card import DOCUMENT, PAGE, measure, write

__all__ = ["DOCUMENT", "PAGE", "measure", "write"]
