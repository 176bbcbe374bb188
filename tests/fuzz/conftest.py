"""The files of this folder import one another, in the worker processes too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
