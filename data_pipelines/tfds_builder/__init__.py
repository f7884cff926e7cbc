"""The recorded worlds as a TFDS dataset."""
