"""What people and programs read from a terminal: results, errors, progress, interrupts."""
