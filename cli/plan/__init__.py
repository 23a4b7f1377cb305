"""The command `scalekv plan`, and the check for room before a run."""
