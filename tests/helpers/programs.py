"""What JAX is told to compute, looked through."""

import jax
import jax.extend.core
import numpy as np


def dtypes(jaxpr):
    """Names of the dtypes of all values that a program makes, those of inner programs too."""
    found = set()
    for equation in jaxpr.eqns:
        for value in equation.outvars:
            dtype = getattr(value.aval, "dtype", None)
            if dtype is not None and not jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
                found.add(np.dtype(dtype).name)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found |= dtypes(inner)
    return found
