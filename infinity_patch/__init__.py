"""Everything that knows Infinity."""
