"""Networks by name: the CIFAR forms of the papers, and those of timm and torchvision."""

from lrpet.models.factory import Source, create, names

__all__ = ["Source", "create", "names"]
