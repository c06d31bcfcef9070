"""Fit V to a trained network in closed form, layer by layer, and say how much each layer lost."""

from weightcast.compress.report import CompressionReport, CompressionRow, compression_report
from weightcast.compress.walk import compress

__all__ = ["CompressionReport", "CompressionRow", "compress", "compression_report"]
