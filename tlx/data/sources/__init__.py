"""Where data come from: a source is a frozen value, and `open()` gives its splits and describes its columns."""

from tlx.data.sources.base import Dataset, Source
from tlx.data.sources.csv import Csv
from tlx.data.sources.tfds import Tfds

__all__ = ["Csv", "Dataset", "Source", "Tfds"]
