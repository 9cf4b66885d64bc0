"""`python -m c3d_client`, for systems where the command `c3d` is not on the PATH."""

from c3d_client.cli import main

main()
