"""Shards: the part of a run that one worker extracts, writes and reports."""
