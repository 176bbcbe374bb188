"""Find inputs that occur twice, exactly or nearly, within a split and across splits, in time linear in their number.

`sketches` describes each input by a few numbers, `groups` finds the inputs with the same description, `dropping` leaves
them out of the training examples.

Two texts are exact duplicates where they are equal after Unicode normalisation (NFKC), without regard to case and white
space; near duplicates where about four fifths of their sequences of five characters are common (Jaccard similarity 0.8,
estimated by MinHash; Broder, 1997). Two images are exact duplicates where their pixels are equal, near duplicates where
their small grey versions correlate with 0.99 or more: other sizes, formats, brightness or contrast of one picture. Two
sounds are duplicates where their samples are equal. Other inputs are compared byte by byte. Groups are connected
components, as in Lee et al. (2022).
"""

from tlx.data.duplicates.dropping import without_duplicates
from tlx.data.duplicates.groups import Groups, grouped
from tlx.data.duplicates.sketches import Sketch, sample, sketched

__all__ = ["Groups", "Sketch", "grouped", "sample", "sketched", "without_duplicates"]
