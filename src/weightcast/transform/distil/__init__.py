"""distil: what a compressed network learns from the dense one."""

from weightcast.transform.distil.lessons import Distilled, distil

__all__ = ["Distilled", "distil"]
