"""Runs and schedules on a cluster that is there already."""
