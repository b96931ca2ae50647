"""Which process projects which weight, and what is sent for it; the only room that imports torch.distributed."""
