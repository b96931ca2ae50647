"""The algorithm, and when and on what it runs."""
