"""Where a model's files are: presets, hub, cache, downloads, hashes."""
