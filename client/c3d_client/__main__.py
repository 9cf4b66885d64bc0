"""`python -m c3d_client`, for where the command is not on the path."""

from c3d_client.cli import main

main()
