"""The memory report as table, JSON and page, and the command `scalekv report`."""
