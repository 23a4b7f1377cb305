"""Benchmarks that score pictures with networks of their own: prompts in, their layouts out, and
what their scorers wrote back in."""
