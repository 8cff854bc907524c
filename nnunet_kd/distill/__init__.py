"""The whole way from trained teachers to a student, its report and its bundle, as one command."""
