"""Networks by name: the CIFAR forms of the papers, and networks of timm, torchvision and transformers."""

from lrpet.models.factory import Source, create, names
from lrpet.models.recognize import source_of

__all__ = ["Source", "create", "names", "source_of"]
