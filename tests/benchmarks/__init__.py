"""Measurements: `make fidelity`, `make bench`, `make bench-scale`, `make bench-estimate`."""
