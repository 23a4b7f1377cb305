"""The commands `scalekv eval ...`."""
