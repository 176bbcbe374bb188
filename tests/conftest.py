"""A strict room: eight fake devices, no silent promotion of types, the network off unless an asset is asked for."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
