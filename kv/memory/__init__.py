"""Bytes: predicted, held, and what they are measured against."""
