"""Image sets, their formats, batches and augmentation."""
