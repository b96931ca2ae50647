"""Image sets by name, and their batches: read from published formats or folders, split, augmented."""
