"""Subcommands of `c3d`: click parses the arguments, the library does the work."""
