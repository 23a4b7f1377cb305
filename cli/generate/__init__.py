"""The command `scalekv generate`."""
