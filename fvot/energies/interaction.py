"""The energy of particles that attract or repel one another; see `convolution` for its values."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..arguments.frozen import frozen
from ..arguments.functions import Function, as_function
from ..arguments.types import Coefficient, PointFunction
from .energy import Energy


@frozen
@dataclass(frozen=True)
class Interaction(Energy):
    """1/2 double int W(x - y) rho(x) rho(y) dx dy: attraction where W grows with |z|.

    Only for `JKO`.

    Parameters
    ----------
    W : function or float
        A function W(z) = W(-z) of offsets z (dim, n). It may be singular at 0 if it is integrable:
        it is never evaluated there.

    Examples
    --------
    >>> import fvot
    >>> energy = fvot.Entropy(0.1) + fvot.Interaction(lambda z: (z**2).sum(axis=0) / 2)
    """

    W: PointFunction | Coefficient
    kernel: Function = field(init=False, repr=False, compare=False)
    name = "interaction"

    def __post_init__(self):
        object.__setattr__(self, "kernel", as_function(self.W, "Interaction: W", of=("z",)))
