"""What is odd about the data of a run and yet no mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlx.data.settings import Data
    from tlx.data.streams import Splits


def notes(data: Data, splits: Splits, batch: int) -> list[str]:
    """A sentence for every source with fewer examples than a `batch`, and for every labelled stream without examples of
    some classes that `data` did not leave out."""
    found = []
    for name, examples in splits.streams.items():
        source = name in data.sources
        if source and len(examples) < batch:
            count = f"{len(examples)} example{'s' if len(examples) > 1 else ''}"
            found.append(f"{name} has {count}, fewer than a batch of {batch}: a step takes some more than once")
        chosen = data.source_classes if source else data.target_classes
        if examples.labelled and splits.classes and not chosen:
            present = set(examples.labels().tolist())
            missing = [repr(own) for number, own in enumerate(splits.classes) if number not in present]
            if missing:
                more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
                which = f"class{'es' if len(missing) > 1 else ''} {', '.join(missing[:8])}{more}"
                found.append(f"{name} has no example of {which} of {len(splits.classes)}")
    return found
