"""The `muscl` step on Cartesian meshes: third-order face values, one axis after the other.

Alternate x, y, z and z, y, x sweeps. A companion volume J (1 at the start of a step) is moved by
the same volume fluxes, and q = rho / J is what is reconstructed: constants survive the splitting of
any divergence-free velocity. In a sweep, a face gets its value from its upwind cell c, the next one
upwind u and the downwind one d:

    A = |c - u|, B = |d - c|, nu = tau |U| / (J |K|), all differences of one sign (else a = 0)
    a = (1 - nu)/6 [(2 - nu) B + (1 + nu) A],  a <= B,  nu a <= (1 - Lambda) A,  q_face = c +- a

the third-order value of Leonard (1979) within his ULTIMATE bounds (1991), Lambda the part of J that
leaves the cell in this sweep: what remains is at least (1 - Lambda) u >= 0, so the step is positive
while Lambda <= 1 in every sweep.
"""

from dataclasses import dataclass

import numba
import numpy as np

from ..parallel import LayerExchange

WIDTH = 2  # layers beyond a block that face values need
TINY = 1e-290


class Sweeps:
    """Sweeps over this rank's block of a Cartesian mesh."""

    cfl = 0.95
    convex = True  # the rate is a convex function of U

    def __init__(self, mesh, sharp):
        self.mesh = mesh
        self.block = mesh.block
        self.sharp = sharp
        b = mesh.block
        self.axes = range(mesh.dim)
        self.exchange = [
            LayerExchange(mesh.ranks, b.below[a], b.above[a], a, WIDTH, b.thinnest[a])
            for a in self.axes
        ]
        self.sign = [mesh.normal[axis, b.faces[axis]] for axis in self.axes]
        self.walls = [list(_walls(b, axis, mesh.n_inner)) for axis in self.axes]

    def rate(self, U):
        """The largest rate of outflow from a cell's companion volume in any sweep: tau rate <= 1
        keeps every sweep positive.

        Before the sweep along an axis J is 1 - tau (divergence of the axes before): so these
        divergences count too.
        """
        worst = 0.0
        parts = [_sides(self._fluxes(U, axis), axis) for axis in self.axes]
        out = [np.maximum(high, 0) - np.minimum(low, 0) for low, high in parts]
        for order in (self._order(0), self._order(1)):
            emptied = 0.0
            for axis in order:
                low, high = parts[axis]
                worst = max(worst, float((out[axis] + emptied).max()))
                emptied = emptied + (high - low)
        with np.errstate(over="ignore"):  # of a velocity that `ContinuityEquation` refuses
            return worst / self.mesh.volume[0]

    def _order(self, count):
        return self.axes if count % 2 == 0 else self.axes[::-1]

    def _fluxes(self, U, axis):
        """U (n_faces,) as a lattice of faces, positive in the direction of the axis."""
        return U[self.block.faces[axis]] * self.sign[axis]

    def start(self, rho):
        """Nothing to know of the data."""

    def prepare(self, U, tau, velocity):
        """Take the fluxes U (n_faces,) and the step tau; velocity() is of no use here."""
        U = tau * U / self.mesh.volume[0]
        self.courant = [self._fluxes(U, axis) for axis in self.axes]
        self.sweeps = [
            None,
            None,
        ]  # made when their turn comes: under a changing velocity one of them is not needed

    def _sweeps(self, count):
        """All that a step needs to know of the velocity: a `_Sweep` for each axis."""
        J, sweeps = np.ones(self.block.shape), {}
        for axis in self._order(count):
            low, high = _sides(self.courant[axis], axis)
            rest = J - (np.maximum(high, 0) - np.minimum(low, 0))
            sweeps[axis] = _Sweep.of(
                self.courant[axis], self._padded(J, axis), self._padded(rest, axis), axis
            )
            J = J - high + low
        return sweeps

    def step(self, rho, entering, count):
        """One step: the new rho (n_cells,) and what left through each boundary face (n_faces -
        n_inner,).

        *entering* (n_faces - n_inner,): density of what enters there; *count*, the number of the
        step, says which axis comes first.
        """
        mesh = self.mesh
        sweeps = self.sweeps[count % 2] = self.sweeps[count % 2] or self._sweeps(count)
        rho = rho.reshape(self.block.shape)
        crossed = np.zeros(mesh.n_faces - mesh.n_inner)
        for axis in self._order(count):
            sweep = sweeps[axis]
            old = self._padded(rho, axis)
            moved = np.empty(sweep.courant.shape)
            rho = np.empty(self.block.shape)
            _face_fluxes(
                *[
                    _lines(u, axis)
                    for u in (old, sweep.J, sweep.courant, sweep.nu, sweep.room, moved)
                ],
                self.sharp,
            )
            for wall in self.walls[axis]:
                wall.let_in(sweep.courant, entering, moved)
                crossed[wall.faces] = wall.outward * moved[wall.layer].ravel() * mesh.volume[0]
            _update(*[_lines(u, axis) for u in (old, moved, rho)])
        return rho.ravel(), crossed

    def _padded(self, u, axis):
        """u with two layers more on both sides of an axis; beyond a wall the outermost cell is
        repeated: upwind there.
        """
        n = u.shape[axis]
        cut = (slice(None),) * axis
        padded = np.empty(u.shape[:axis] + (n + 2 * WIDTH,) + u.shape[axis + 1 :])
        padded[(*cut, slice(WIDTH, WIDTH + n))] = u
        padded[(*cut, slice(0, WIDTH))] = u[(*cut, slice(0, 1))]
        padded[(*cut, slice(WIDTH + n, None))] = u[(*cut, slice(n - 1, None))]
        return self.exchange[axis](padded)


def _sides(faces, axis):
    """A lattice of faces as seen by its cells: on the lower and on the upper side of each."""
    cut = (slice(None),) * axis
    return faces[(*cut, slice(None, -1))], faces[(*cut, slice(1, None))]


def _lines(u, axis):
    """A view (before, along and after) of a lattice: steps along the axis are steps of `after` in
    the last index.
    """
    return u.reshape(int(np.prod(u.shape[:axis])), -1)


@dataclass(frozen=True)
class _Sweep:
    """The velocity as a sweep along one axis sees it: lattices of faces, but for J."""

    courant: np.ndarray  # tau U / |K|, positive in the direction of the axis
    J: np.ndarray  # companion volume of the cells before the sweep, padded
    nu: np.ndarray  # |courant| / J of the upwind cell
    room: np.ndarray  # what stays of J there

    @classmethod
    def of(cls, courant, J, rest, axis):
        cut = (slice(None),) * axis
        below, above = (*cut, slice(WIDTH - 1, -WIDTH)), (*cut, slice(WIDTH, 1 - WIDTH))
        upwind_J, upwind_rest = (np.where(courant > 0, u[below], u[above]) for u in (J, rest))
        return cls(
            np.ascontiguousarray(courant),
            J,
            np.abs(courant) / upwind_J,
            np.maximum(upwind_rest, 0.0),
        )


@dataclass(frozen=True)
class _Wall:
    """A side of the block on the boundary of the domain."""

    outward: float  # +1 on the upper side, -1 on the lower
    layer: tuple  # of a lattice of faces
    faces: np.ndarray  # numbers of its faces among the boundary faces

    def let_in(self, courant, entering, moved):
        """Where the flow enters, it brings the given density."""
        speed = courant[self.layer]
        given = speed * entering[self.faces].reshape(speed.shape)
        moved[self.layer] = np.where(self.outward * speed < 0, given, moved[self.layer])


def _walls(block, axis, n_inner):
    for outward, neighbour, end in ((-1.0, block.below[axis], 0), (1.0, block.above[axis], -1)):
        if neighbour is None:
            layer = (slice(None),) * axis + (end,)
            yield _Wall(outward, layer, block.faces[axis][layer].ravel() - n_inner)


@numba.njit(cache=True, error_model="numpy")
def _face_fluxes(rho, J, courant, nu, room, moved, sharp):
    """rho / |K| *moved* through each face. Arrays (before, along and after); rho and J have WIDTH
    cells more on both sides: face f lies between their cells f + 1 and f + 2. Selections instead of
    branches, so that the compiler uses vectors.
    """
    n = courant.shape[1]
    after = (rho.shape[1] - n) // 3
    for i in range(len(rho)):
        q = rho[i] / J[i]
        q0 = q[:n]
        q1 = q[after : after + n]
        q2 = q[2 * after : 2 * after + n]
        q3 = q[3 * after :]
        for f in range(n):
            speed = courant[i, f]
            v0 = q0[f]
            v1 = q1[f]
            v2 = q2[f]
            v3 = q3[f]
            v = nu[i, f]
            space = room[i, f]
            ahead = speed > 0
            u = v0 if ahead else v3
            c = v1 if ahead else v2
            d = v2 if ahead else v1
            A, B, amount = c - u, d - c, abs(speed)
            size_A = abs(A)
            size_B = abs(B)
            a = (1 - v) / 6 * ((2 - v) * size_B + (1 + v) * size_A)
            if sharp > 0:  # the superbee value where that is steeper, as in `reconstruction`
                h = (1 - v) / 2 * size_B
                steep = 1.5 * a - 0.5 * h
                a += sharp * max(max(min(2 * steep, h), min(steep, 2 * h)) - a, 0.0)
            extra = min(amount * min(a, size_B), space * size_A)
            extra = extra if A * B > 0 else 0.0
            flux = amount * c + (extra if B > 0 else -extra)
            moved[i, f] = flux if ahead else -flux


@numba.njit(cache=True, error_model="numpy")
def _update(old, moved, new):
    """The new rho: what leaves first, then what enters, so that no value falls below zero by
    round-off.
    """
    n = new.shape[1]
    n_faces = moved.shape[1]
    after = n_faces - n
    for i in range(len(new)):
        low, high = moved[i, :n], moved[i, after:]
        kept = old[i, 2 * after : 2 * after + n]
        for k in range(n):
            left = max(high[k], 0.0) - min(low[k], 0.0)
            value = max(kept[k] - left, 0.0) + (max(low[k], 0.0) - min(high[k], 0.0))
            new[i, k] = value if value > TINY else 0.0  # denormal numbers are slow
