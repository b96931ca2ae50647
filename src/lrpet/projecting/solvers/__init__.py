"""Solvers for the leading singular subspace of a stack of matrices; `leading` takes the cheapest that is accurate enough.

A projection needs no singular vectors one by one, only the subspace that the leading r of them span, on the smaller side of
the matrix. Three solvers find it, for M = diag(α)·W (α is 1 without rectification) with s = min(rows, columns):

    svd.py     a full singular value decomposition of M in float64: the reference, and the last resort
    gram.py    the eigenvectors of the s×s Gram matrix of M, in the precision that its spectrum needs
    power.py   a few steps of block power iteration from the last projection's basis, in matrix products only
"""

from lrpet.projecting.solvers.choice import Solver, leading
from lrpet.projecting.solvers.power import WARM_TOLERANCE

__all__ = ["WARM_TOLERANCE", "Solver", "leading"]
