"""Measurements: run by `make bench-client`, `make bench-estimate` and `make fidelity`."""
