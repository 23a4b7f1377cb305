"""Infinity itself: transformer, picture tokenizer, text encoder, sampling."""
