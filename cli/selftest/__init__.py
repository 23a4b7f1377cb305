"""The command `scalekv selftest`."""
