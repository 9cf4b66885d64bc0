"""Helpers of the tests: sample data, servers, faults, and the independent NumPy C3D."""
