"""From files to a model in memory, and copies that load faster."""
