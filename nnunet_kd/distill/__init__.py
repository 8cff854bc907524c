"""The whole way from trained teachers to a student, its verdict and its bundle, as one command."""
