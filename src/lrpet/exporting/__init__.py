"""Read exported networks back; `lrpet.export` writes them."""

from lrpet.exporting.artefact import Artefact, verify

__all__ = ["Artefact", "verify"]
