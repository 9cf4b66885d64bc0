"""The commands of `c3d`, one file each."""
