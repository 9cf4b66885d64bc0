"""Measurements, run by `make fidelity`, `make bench-client` and `make bench-estimate`."""
