"""Files of other tools and of ours: no model, no jit."""
