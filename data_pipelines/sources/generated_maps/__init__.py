"""Doom maps made from a seed: `layout` plans rooms and corridors, `lumps` writes them as a map."""
