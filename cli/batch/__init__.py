"""The command `scalekv batch`."""
