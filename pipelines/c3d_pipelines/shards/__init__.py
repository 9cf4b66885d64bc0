"""One shard of a run: asked for, written, and held against its report."""
