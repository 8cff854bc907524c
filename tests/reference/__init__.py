"""Independent float64 NumPy implementations that the tests compare with."""
