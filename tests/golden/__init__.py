"""Replay of recorded runs of the official code."""
