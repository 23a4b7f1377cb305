"""Infinity text-to-image generation with a compressed key-value cache: the package `scalekv`."""
