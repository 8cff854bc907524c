"""Mutated inputs for every command: how files are spoiled, a small workspace of all kinds of them, what must hold."""
