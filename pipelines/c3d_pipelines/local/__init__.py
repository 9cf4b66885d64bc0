"""The compiled pipeline, run on this machine."""
