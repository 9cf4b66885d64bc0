"""What is to be done: a run's inputs, listed or read, given keys, and cut into shards."""
