"""From a budget to ranks."""
