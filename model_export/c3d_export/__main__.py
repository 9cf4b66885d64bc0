"""`python -m c3d_export`, for where the command is not on the path."""

from c3d_export.cli import main

main()
