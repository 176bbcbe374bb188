"""Foreign numbers in and out."""

from tlx.weights.adapters import load_adapter, save_adapter
from tlx.weights.export import export_pretrained
from tlx.weights.form import Pretrained, fingerprint, head_paths, inserted
from tlx.weights.pretrained import Weights, load_pretrained, save_pretrained
from tlx.weights.reconcile import Entry, Manifest

__all__ = [
    "Entry", "Manifest", "Pretrained", "Weights", "export_pretrained", "fingerprint", "head_paths", "inserted",
    "load_adapter", "load_pretrained", "save_adapter", "save_pretrained",
]  # fmt: skip
