"""End-to-end tests with nnU-Net's own commands."""
