"""What layers and networks take in time."""
