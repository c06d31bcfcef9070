"""Least squares: V of U V = W in closed form, in the metric of the layer's inputs, and its atoms.

    min_V  sum over units  (w - U v)^T C (w - U v)

C is the second moment of the rows x that the layer multiplies by W, so that this is the error of
the layer's output, E|x W - x U V|^2. Without inputs C = I: the error of the weights themselves.
"""

from weightcast.least_squares.at_places import solve_at
from weightcast.least_squares.atom_choice import choose_atoms, loss_curve
from weightcast.least_squares.columns import fit_columns
from weightcast.least_squares.metric import Metric, by_group

__all__ = ["Metric", "by_group", "choose_atoms", "fit_columns", "loss_curve", "solve_at"]
