"""Soft labels: the ensemble's probabilities for a case, in the student's preprocessed geometry, on disk."""
