"""Write compact networks in other formats."""

from lrpet.exporting.onnx import to_onnx

__all__ = ["to_onnx"]
