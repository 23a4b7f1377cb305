"""The command `scalekv compare`."""
