"""What a policy sees, the registry, and one file a method."""
