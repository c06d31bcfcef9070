"""Work: what building atoms takes, in multiply-adds of a large product.

Numbers made and matrices decomposed count as the multiply-adds that take about as long.
"""

from __future__ import annotations

NUMBER = 2**10
"""A float64 that is made: more than its time, so that memory is bounded as well."""

CUBE = 20
"""n^3 times this: a decomposition of an (n, n) matrix."""

CALL = 2**12 * NUMBER
"""One small decomposition, however small."""
