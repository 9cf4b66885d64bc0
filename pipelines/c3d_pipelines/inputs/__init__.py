"""The inputs of a run: listing, manifests, keys, and the plan with its shards."""
