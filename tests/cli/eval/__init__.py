"""Tests of `scalekv eval`."""
