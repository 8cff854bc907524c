"""Trained models: finding, checking and loading them, and who teaches what."""
