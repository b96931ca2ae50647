"""Write compact networks in other formats."""

from lrpet.export.onnx import to_onnx

__all__ = ["to_onnx"]
