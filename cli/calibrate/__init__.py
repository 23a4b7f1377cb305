"""The command `scalekv calibrate`."""
