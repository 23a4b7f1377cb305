"""What a person asks for, checked and settled before any weight is read."""
