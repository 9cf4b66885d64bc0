"""Entry point of `python -m c3d_client`, where the command `c3d` is not on the path."""

from c3d_client.cli import main

main()
