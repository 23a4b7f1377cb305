"""Measuring a model's attention to find its drafters and orders."""
