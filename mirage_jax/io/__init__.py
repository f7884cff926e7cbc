"""Files in and out: no model, no jit."""
