"""Recipes: presets of the ``"kd"`` block, one JSON file each."""
