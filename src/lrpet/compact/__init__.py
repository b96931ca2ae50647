"""From a full-size model to a compact model and its files."""
