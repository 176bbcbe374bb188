"""A strict room: eight fake devices, no silent promotion of types, the network off unless an asset is asked for."""

import os
from importlib.util import find_spec

from tlx.assets import cache_dir

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# A suite of small programs spends its time in the compiler; a second run, and the processes that tests start, need not.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "compiled-by-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
# The newest interpreter runs the suite without torch, and so without these files, all of which is marked `parity`.
collect_ignore = [] if find_spec("torch") else ["models/test_parity.py", "models/test_parity_peft.py"]
