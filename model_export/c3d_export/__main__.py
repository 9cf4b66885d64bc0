"""`python -m c3d_export`, for environments without the command on the PATH."""

from c3d_export.cli import main

main()
