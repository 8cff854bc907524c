"""Recipes: presets of the ``"kd"`` block, one JSON file each.

A file holds three keys: ``source`` (the paper), ``kd`` (the part of the block that the recipe sets; the rest keeps its
default) and ``notes`` (a list of sentences: where the recipe goes beyond or away from the paper).
``nnUNetv2_kd plan --recipe NAME`` reads them through :mod:`nnunet_kd.planning.recipes`.
"""
