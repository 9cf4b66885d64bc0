"""What the tasks of the pipelines do: each component is one call of these."""
