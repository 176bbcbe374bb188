"""Foreign numbers in and out."""

from tlx.weights.pretrained import Pretrained, Weights, load_pretrained, save_pretrained
from tlx.weights.reconcile import Entry, Manifest

__all__ = ["Entry", "Manifest", "Pretrained", "Weights", "load_pretrained", "save_pretrained"]
