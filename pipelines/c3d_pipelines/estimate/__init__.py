"""Estimate of a bulk run: how long it takes and what it costs, from a simulation."""
