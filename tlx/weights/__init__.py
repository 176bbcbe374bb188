"""Read and write pretrained weights, adapters and heads, and combine models."""

from tlx.weights.adapters import load_adapter, save_adapter
from tlx.weights.export import export_pretrained
from tlx.weights.form import Pretrained, fingerprint, head_paths, inserted
from tlx.weights.heads import reorder
from tlx.weights.pretrained import Weights, load_pretrained
from tlx.weights.reconcile import Entry, Manifest
from tlx.weights.saving import save_pretrained
from tlx.weights.trained import check_trained, sentences, untrained

__all__ = [
    "Entry", "Manifest", "Pretrained", "Weights", "check_trained", "export_pretrained", "fingerprint", "head_paths",
    "inserted", "load_adapter", "load_pretrained", "reorder", "save_adapter", "save_pretrained", "sentences",
    "untrained",
]  # fmt: skip
