"""Facts about models and budgets, read from YAML, and the user's settings."""
