"""The commands `scalekv budgets ...`."""
