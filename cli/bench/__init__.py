"""The command `scalekv bench`."""
