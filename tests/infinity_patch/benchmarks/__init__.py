"""Benchmarks of others: prompts, layouts and scores."""
