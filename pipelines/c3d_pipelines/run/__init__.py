"""The steps of a bulk run, and how they are run on this machine."""
