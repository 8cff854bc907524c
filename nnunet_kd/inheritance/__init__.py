"""Students that start as closed-form reconstructions of a wider teacher (docs/explanation/reconstruction.md)."""
