"""The verbs of `c3d-pipelines`, one a file."""
