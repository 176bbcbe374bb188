"""A frozen prefix of a model, computed once: where it may be cut, and what it gives of every example.

Where the stages below a cut are frozen and deterministic, what they give of an example never changes. It is then
computed once, stored, and read by every epoch, phase, run and study that asks for the same. `cut.py` says where that is
exact, and why not where it is not; `store.py` computes and keeps it.
"""

from tlx.training.feature_cache.cut import Cut, find
from tlx.training.feature_cache.store import Sources, clear, nothing, sources, stored

__all__ = ["Cut", "Sources", "clear", "find", "nothing", "sources", "stored"]
