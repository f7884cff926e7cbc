"""Every test runs on the CPU, with the jaxtyping signatures of both packages checked."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from jaxtyping import install_import_hook

install_import_hook(["mirage_jax", "data_pipelines"], "beartype.beartype")
