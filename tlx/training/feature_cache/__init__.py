"""Cache the features of a frozen prefix of a model: where the model may be cut, and the features of every example.

Where the stages below a cut are frozen and deterministic, their features of an example never change. They are computed
once, stored, and read by every epoch, phase, run and study that needs the same. `cut.py` decides where this is exact,
and says why not where it is not; `store.py` computes and keeps the features.
"""

from tlx.training.feature_cache.cut import Cut, find
from tlx.training.feature_cache.store import Sources, clear, nothing, sources, stored

__all__ = ["Cut", "Sources", "clear", "find", "nothing", "sources", "stored"]
