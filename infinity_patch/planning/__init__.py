"""What a run would take in memory, and whether this machine has it."""
