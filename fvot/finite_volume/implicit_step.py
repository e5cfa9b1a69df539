"""One implicit step of a Fokker-Planck operator: rho -> Y with (|K| + s A) Y = |K| rho, made safe.

A is the matrix of the two-point fluxes, (A rho)_K = sum over the faces of K of what flows out. Its
off-diagonal entries are <= 0 and its columns add up to what crosses the boundary: |K| + s A is an
M-matrix for every s > 0, its inverse is non-negative, conserves mass and is a contraction in L1 and
in every convex entropy. A solver in floating point has none of this by itself, hence

1. increments: (|K| + s A) d = -s (net outflow of rho, face by face), Y = rho + d. The Gibbs
   density, whose fluxes are zero, stays fixed to round-off, however loose the solver and however
   large s.
2. every solution is judged by its true residual, computed face by face, by its mass, by its
   negative part (which an M-matrix cannot make) and, where there is one, by its entropy. What fails
   is refined by one more solve for the residual, then given to the next method, then
   `ConvergenceError`. A residual r bounds the error: |Y - exact|_L1 <= sum |r_K|.
3. three methods, ranked by `ranked`: LU once for many steps; BiCGStab with ILU(0), cells in the
   order of the drift; GMRES with BoomerAMG on the columns scaled by the Gibbs density, (|K| + s A)
   G y = rhs, d = G y, a symmetric matrix (where there is a potential), whose iterations grow
   neither with the barriers nor with s.
"""

from typing import NamedTuple

import numba
import numpy as np

from .. import linalg
from ..errors import ConvergenceError
from .rates import Rates

PREFIX = "fvot_fokker_planck_"
CLIP = 300.0  # exponents beyond which the column scaling is flat: e^-300 is far from underflow
LARGEST_LU = {1: 10**7, 2: 2 * 10**6, 3: 40_000}  # cells, for memory's sake
ROUGH = 1e-7  # tolerance of the solves that look for the scaling of the columns
REFINEMENTS = 5  # solves, the first included
REFINED = 1e-3  # tolerance of all but the first


# ---- which method ------------------------------------------------------------------------------------------------------


def costs(n, dim, n_ranks, stiffness, steepness, gibbs=True):
    """{method: (set-up, one solve)} as estimated, for n cells; microseconds per cell of all, of
    which only ratios matter.

    stiffness : s max A_KK / |K|, the step in units of the time in which a cell is emptied
    steepness : a typical cell Peclet number; above 1 the drift decides, and ILU(0) in its order is
        nearly exact
    gibbs : whether the columns' scaling is known, or has to be found

    The numbers are fitted to measurements on squares and boxes (see
    benchmarks/RESULTS_fokker_planck.md).
    """
    side = n ** (1 / dim)
    steep = 1 + steepness
    iterations = (
        3
        if dim == 1
        else 2
        + min((3 if dim == 2 else 1.5) * np.sqrt(stiffness) / steep, 0.65 * side / np.sqrt(steep))
    )
    shared = n_ranks**-0.8
    found = {
        "ilu": (0.25 * shared, (0.04 + 0.026 * iterations) * shared),
        "amg": (
            ((1.2 if dim == 3 else 0.7) + (0 if gibbs else 9)) * shared,
            (1.3 if dim == 3 else 0.7 + 0.5 * min(steepness, 1)) * shared,
        ),
    }
    if n <= LARGEST_LU[dim]:
        one, many = {
            1: ((0.2, 0.015), (1.0, 0.1)),
            2: (
                (2.5 * (n / 65536) ** 0.6, 0.045 * (n / 65536) ** 0.12),
                (6.8, 0.5 * (n / 65536) ** 0.7),
            ),
            3: ((10 * (n / 8000) ** 1.25, 0.11 * (n / 8000) ** 0.4), (20 * (n / 8000) ** 0.4, 0.7)),
        }[dim]
        found["lu"] = (
            one if n_ranks == 1 else (many[0] + 4000 / n, many[1] + 1600 / n)
        )  # PETSc's, or MUMPS, which waits
    return found


def ranked(costs, n_solves, ready=None):
    """The names of the methods, the cheapest for n_solves solves first; one that is *ready* needs
    no set-up.
    """
    return sorted(
        costs, key=lambda name: (0 if name == ready else costs[name][0]) + n_solves * costs[name][1]
    )


# ---- how the columns are scaled for multigrid --------------------------------------------------------------------------


def column_scale(rates):
    """(n_cells,): the Gibbs density, or the stationary one as far as it was found, over its maximum
    and cut off at e^-300.
    """
    if rates.gibbs is not None:
        return _density(rates.mesh.ranks, rates.gibbs)
    if rates.pattern.found_scale is None:
        rates.pattern.found_scale = rates, _found_scale(rates)
    return rates.pattern.found_scale[1]


def _density(ranks, phi):
    return np.exp(-np.minimum(phi - ranks.min(phi.min(initial=np.inf)), CLIP))


def _found_scale(rates):
    """Implicit steps from the uniform density, 30 times longer each time, each scaled by what the
    last has found.

    Up to about the time in which diffusion crosses the mesh a thousand times: longer ones add noise
    where the density is low.
    """
    mesh = rates.mesh
    inner = Rates(
        rates.pattern,
        np.where(rates.mesh.right >= 0, rates.a, 0),
        np.where(rates.mesh.right >= 0, rates.b, 0),
    )
    fastest = mesh.ranks.max(inner.leaving().max(initial=0.0))
    scale = np.ones(mesh.n_cells)
    nothing = np.zeros(mesh.n_faces - mesh.n_inner)
    if fastest == 0:
        return scale
    crossing = 1e4 * mesh.n_cells_global ** (2 / mesh.dim)
    rho = scale
    for stiffness in np.geomspace(
        10, crossing, 1 + int(np.ceil(np.log(crossing / 10) / np.log(30)))
    ):
        s = stiffness / fastest
        way = LinearMethod(inner, s, "amg", ROUGH, PREFIX + "scale_", scale)
        rho = rho + way.solve(-s * inner.outflow(rho, nothing)[0], ROUGH)
        way.system.destroy()
        most = mesh.ranks.max(np.abs(rho).max(initial=0.0))
        rho = np.maximum(rho / most, np.exp(-CLIP))
        scale = rho
    return scale


class Resolvent:
    """rho -> Y = (|K| + s A)^-1 (|K| rho + s b g): implicit Euler over a time s, checked as the
    module says.

    rtol : relative tolerance of the linear solves
    names : the methods that have not failed
    """

    def __init__(self, rates, s, *, rtol=1e-10, prefix=PREFIX):
        self.rates = rates
        self.s = s
        self.rtol = rtol
        self.prefix = prefix
        mesh = rates.mesh
        self.stiffness = s * mesh.ranks.max(rates.leaving().max(initial=0.0))
        self.costs = costs(
            mesh.n_cells_global,
            mesh.dim,
            mesh.ranks.size,
            self.stiffness,
            rates.steepness(),
            rates.gibbs is not None,
        )
        self.names = list(self.costs)
        self.iterations = self.solves = 0
        self._way = None

    def expect(self, n_solves):
        """Be ready for that many solves, by the method that is the cheapest for them."""
        ready = None if self._way is None else self._way.name
        self.names = [name for name in ranked(self.costs, n_solves, ready) if name in self.names]
        if ready is not None and self.names and self.names[0] != ready:
            self.destroy()
        return self

    def __call__(self, start, entering, rest=0.0, fault=None):
        """Y (n_cells,) with |K| (Y - start) + s (net outflow of Y) = rest: implicit Euler where the
        rest is 0.

        entering (n_faces - n_inner,) : the boundary's densities
        rest (n_cells,) : what else comes into the cells; Y may be negative then, else it is not
        fault : a function of Y that says what is wrong with it, or None

        Raises `ConvergenceError` where no method passes the checks.
        """
        faults = []
        while self.names:
            try:
                Y, wrong = self._attempt(start, entering, rest, fault)
            except ConvergenceError as error:
                wrong = str(error)
            if wrong is None:
                return Y
            if self._has_borrowed():
                self.rates.pattern.found_scale = None
                self.destroy()
                continue
            faults.append(f"{self.names[0]}: {wrong}")
            self.give_up()
        raise ConvergenceError(
            f"no linear solver could take an implicit step of {self.s:.3g}, {self.stiffness:.1e} "
            "times the "
            f"time in which a cell is emptied ({'; '.join(faults)}): take a smaller step, or "
            "another solver "
            f"by PETSc's options, such as -{self.prefix}pc_type"
        )

    def _has_borrowed(self):
        """Whether multigrid has failed with a scaling that other rates have found."""
        found = self.rates.pattern.found_scale
        return (
            self.names[0] == "amg"
            and self.rates.gibbs is None
            and found is not None
            and found[0] is not self.rates
        )

    def give_up(self):
        """Go on with the next method."""
        self.names = self.names[1:]
        self.destroy()

    def destroy(self):
        if self._way is not None:
            self._way.system.destroy()
        self._way = None

    def _attempt(self, start, entering, rest, judge):
        """(Y, None), or (Y, what is wrong with it)."""
        d, Y, positive = np.zeros_like(start), start, np.ndim(rest) == 0
        residual, first = self._residual(d, Y, entering, rest)
        if first.size == 0:
            return start.copy(), None
        if self._way is None:
            self._way = LinearMethod(self.rates, self.s, self.names[0], self.rtol, self.prefix)
        for i in range(REFINEMENTS):
            d += self._way.solve(
                residual, self._way.rtol if i == 0 else max(self._way.rtol, REFINED)
            )
            Y = start + d
            residual, now = self._residual(d, Y, entering, rest)
            fault = self._fault(first, now, positive)
            if positive:
                np.maximum(Y, 0, out=Y)
            if fault is None and judge:
                fault = judge(Y)
            self.solves += 1
            if fault is None or self._way.failed or not np.isfinite(now.size):
                break
        self.iterations += self._way.iterations()
        return Y, fault

    def _residual(self, d, Y, entering, rest):
        """(residual (n_cells,), its `ResidualNorms`): of the fluxes of Y, not of d, as they are smaller
        where Y is smoother than the start; and what one cell gives is what the other gets, so that
        its sum tells the mass to round-off.
        """
        mesh = self.rates.mesh
        residual = np.empty(self.rates.mesh.n_cells)
        out, (terms, fluxes) = self.rates.outflow(Y, entering)
        rest = np.broadcast_to(rest, mesh.n_cells)
        sums = _what_is_left(rest, mesh.volume, d, self.s, out, Y, residual)
        return residual, ResidualNorms(
            *mesh.ranks.sum(np.array([*sums, self.s * terms, self.s * fluxes]))
        )

    def _fault(self, first, now, positive):
        """What is wrong with a solution: compared with the tolerance, and with the rounding of what
        is looked at.
        """
        tolerance = 10 * max(self._way.rtol, 1e-15)
        mass = max(first.mass, now.mass)
        if not np.isfinite(now.size):
            return "the solution is not finite"
        if now.size > tolerance * first.size + 1e-15 * (mass + now.terms):
            return f"relative residual {now.size / first.size:.1e}"
        if abs(now.gained) > tolerance * mass + 1e-15 * now.fluxes:
            return f"mass changed by {now.gained / mass:.1e}"
        if positive and now.negative > tolerance * mass:
            return f"negative mass {now.negative / mass:.1e}"
        return None


class ResidualNorms(NamedTuple):
    """Over all cells: |residual|, residual, -min(Y, 0), |Y|, and s times the sums of
    `Rates.outflow`.
    """

    size: float
    gained: float
    negative: float
    mass: float
    terms: float
    fluxes: float


@numba.njit(cache=True, error_model="numpy")
def _what_is_left(rest, volume, d, step, out, Y, residual):
    """residual = rest - |K| d - s out; the sums of |residual|, residual, |K| max(-Y, 0) and |K|
    |Y|.
    """
    size = 0.0
    gained = 0.0
    negative = 0.0
    mass = 0.0
    for cell in range(len(residual)):
        r = rest[cell] - volume[cell] * d[cell] - step * out[cell]
        content = volume[cell] * Y[cell]
        residual[cell] = r
        size += abs(r)
        gained += r
        mass += abs(content)
        negative += abs(content) - content
    return size, gained, negative / 2, mass


class LinearMethod:
    """One method at work on |K| + s A: cells in the order of the drift for ILU, columns scaled for
    AMG.
    """

    def __init__(self, rates, s, name, rtol, prefix, scale=None):
        mesh = rates.mesh
        self.name = name
        self.order = rates.by_drift() if name == "ilu" else None
        self.scale = scale
        if name == "amg" and scale is None:
            self.scale = column_scale(rates)
        self.system = linalg.System(
            mesh.ranks,
            rates.pattern.matrix(rates, s, self.order, self.scale),
            linalg.method(name, mesh.dim, mesh.ranks.size),
            prefix=prefix,
            rtol=rtol,
        )
        self.rtol = self.system.rtol
        self._counted = 0

    def solve(self, rhs, rtol):
        """d with (|K| + s A) d = rhs, all (n_cells,), up to the tolerance if it went well."""
        if self.order is not None:
            d = np.empty_like(rhs)
            d[self.order] = self.system(rhs[self.order], rtol)
            return d
        y = self.system(rhs, rtol)
        return y if self.scale is None else self.scale * y

    @property
    def failed(self):
        """Whether the last solve itself says that it has not converged."""
        return self.system.reason < 0

    def iterations(self):
        """How many there were since the last call."""
        before = self._counted
        self._counted = self.system.iterations
        return self._counted - before
