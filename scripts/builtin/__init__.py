"""Rebuilds the built-in model: drawings, captions, text tokenizer, then the trainings."""
