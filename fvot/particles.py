"""Particles that move with a flow, or by Langevin's equation.

They are independent witnesses for the solvers on meshes.

Positions are (dim, n), paths (n_times, dim, n). Walls are a pair of corners (lower, upper); for
flows they may also be those of a mesh. A flow stops at walls; noise is reflected: on the unfolded
line a particle continues behind its mirror image, in the mirrored drift. Where a tensor D mixes the
directions, nothing flows through a wall with normal n if particles are reflected along D n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from .arguments.diffusion import (
    Noise,
    as_diffusion_function,
    check_noise,
    compute_noise_drift,
    find_faulty_tensor,
    take_root,
)
from .arguments.functions import (
    Function,
    as_floats,
    as_function,
    check_finite,
    is_integer,
    is_number,
    refuse_masked,
)
from .arguments.times import check_step, check_times
from .arguments.types import Array, ArrayLike, Coefficient, PointFunction, TimeFunction
from .arguments.watch import WATCHED_TIMES, Watch
from .errors import ConvergenceError, InputError, warn
from .parallel import Ranks

__all__ = [
    "density_along_flow",
    "langevin",
    "push_forward",
]

# Particles that share a stream of random numbers, and a rank.
PARTICLES_PER_STREAM = 4096

# Calls of a velocity along the flow, at most.
MAX_VELOCITY_CALLS = 100_000

# Halvings of the step of differences at the start, at most.
MAX_DIFFERENCE_HALVINGS = 30

# The tolerance from which on an integrator of low order does less work.
LOW_ORDER_TOLERANCE = 1e-4

# Points whose velocities are watched: so many, at most about twice as many.
WATCHED_POINTS = 64

# Of the whole time, the part up to which near times of Langevin's equation share a first look.
SHARED_LOOK = 1 / 20

# Steps of Langevin's equation, where no tau is given; also between two times where coefficients
# change fast there.
LANGEVIN_STEPS = 1000

# First step of differences of velocities, relative to the size of the positions.
FIRST_DIFFERENCE_STEP = 1e-2

# Step of differences of a diffusion, relative to the size of the cloud of particles: about the cube
# root of round-off, where the errors of central differences are least.
DIFFUSION_STEP = 1e-5

# The smallest such step, relative to positions: round-off in these leaves seven digits of it.
SMALLEST_DIFFUSION_STEP = 1e-9

# Relative difference of two difference quotients, with one step twice the other, that counts as
# none.
DIFFERENCE_TOLERANCE = 1e-8

# The smallest derivative that matters, relative to speed over step.
SMALLEST_DERIVATIVE = 1e-3


def push_forward(
    x0: ArrayLike,
    velocity: PointFunction | TimeFunction | Array,
    t: float | ArrayLike,
    *,
    walls: Any = None,
    rtol: float | None = None,
) -> Array:
    """The positions to which the flow dx/dt = v(x, t) carries points x0.

    Parameters
    ----------
    x0 : array (dim, n)
        The points at the start.
    velocity : function
        v(x) or v(x, t) with values (dim, n), such as the velocity_at of a solver's result.
    t : float or array (n_times,)
        A final time, or increasing times, the first of which is the start.
    walls : pair of arrays (dim,) or Mesh, optional
        (lower, upper), the corners of a box which nothing leaves, or a `Mesh`, as velocity_at
        needs. Particles slide along walls.
    rtol : float, optional
        Tolerance of the integrator. None: 1e-8, and 1e-3 inside a mesh.

    Returns
    -------
    array (n_times, dim, n)
        The positions at the times t, the first of which are x0.

    Raises
    ------
    InputError
        For points, velocities or times that cannot be used, and for points outside the walls.
    ConvergenceError
        Where the integrator fails.

    Notes
    -----
    The integrator is SciPy's DOP853, or RK23 for rtol from 1e-4 on: velocities of meshes jump from
    cell to cell. Pulses and periods of v(x, t) are resolved if they last at least 1/200 of the time
    between two of the times t. Every rank does the same, so that v may be collective.

    Examples
    --------
    >>> import numpy as np
    >>> from fvot import particles
    >>> path = particles.push_forward([[1.0], [0.0]], lambda x: np.stack([-x[1], x[0]]), np.pi)
    >>> path[-1].round(6).ravel().tolist()
    [-1.0, 0.0]
    """
    start = _check_same_start(x0)
    times = check_times(Ranks(), t)
    v = as_function(velocity, "velocity", (len(start),))
    domain = _build_domain(walls, start)
    tolerance = _choose_tolerance(rtol, domain)

    def rate(now: float, flat: Array) -> Array:
        return domain.constrain(flat.reshape(start.shape), v, now).ravel()

    signals = _build_signals(v, domain, start.shape)
    states = _integrate(rate, start.ravel(), times, tolerance, signals)
    positions = []
    for state in states:
        x = state.reshape(start.shape)
        positions.append(domain.inside(x))
    return np.stack(positions)


def density_along_flow(
    x0: ArrayLike,
    rho0: float | ArrayLike | PointFunction,
    velocity: PointFunction | TimeFunction | Array,
    t: float | ArrayLike,
    *,
    divergence: PointFunction | TimeFunction | float | None = None,
    walls: Any = None,
    rtol: float | None = None,
) -> tuple[Array, Array]:
    """The positions of points carried from x0, and the density there.

    rho(t, x(t)) = rho0(x0) / det J, J the Jacobian of the flow, by d log det J/dt = div v along the
    path (Liouville; in machine learning a normalising flow, Chen et al. 2018).

    Parameters
    ----------
    x0 : array (dim, n)
        The points at the start.
    rho0 : function, number or array (n,)
        The density at the start: a function of x, or values at x0.
    velocity, t, walls, rtol
        As in `push_forward`.
    divergence : function, optional
        div v, a function like v. None: by differences of v of order 4, with steps that are chosen
        at x0.

    Returns
    -------
    x : array (n_times, dim, n)
        The positions at the times t, the first of which are x0.
    rho : array (n_times, n)
        The density at these positions.

    Raises
    ------
    InputError
        As `push_forward` does, and for densities that are negative or not finite.
    ConvergenceError
        Where the integrator fails.

    Examples
    --------
    >>> from fvot import particles
    >>> x, rho = particles.density_along_flow([[1.0]], 3.0, lambda x: x, 1.0)
    >>> x[-1].round(4).tolist(), rho[-1].round(4).tolist()
    ([[2.7183]], [1.1036])
    """
    start = _check_same_start(x0)
    times = check_times(Ranks(), t)
    dim, n = start.shape
    v = as_function(velocity, "velocity", (dim,))
    domain = _build_domain(walls, start)
    tolerance = _choose_tolerance(rtol, domain)
    densities = _check_densities(rho0, start)
    div: Any
    if divergence is None:
        div = _Differences(v, domain, start, times[0])
    else:
        div = as_function(divergence, "divergence")

    def rate(now: float, flat: Array) -> Array:
        x = flat[:-n].reshape(dim, n)
        moves = domain.constrain(x, v, now)
        spreads = div(domain.inside(x), now)
        return np.concatenate([moves.ravel(), spreads])

    signals = _build_signals(v, domain, start.shape)
    flat_start = np.concatenate([start.ravel(), np.zeros(n)])
    states = _integrate(rate, flat_start, times, tolerance, signals)
    positions = []
    logs = []
    for state in states:
        x = state[:-n].reshape(dim, n)
        positions.append(domain.inside(x))
        logs.append(state[-n:])

    log_determinant = np.stack(logs)
    rho = densities * np.exp(-log_determinant)
    return np.stack(positions), rho


def langevin(
    x0: ArrayLike,
    drift: PointFunction | TimeFunction | ArrayLike,
    diffusion: Coefficient,
    t: float | ArrayLike,
    seed: int,
    *,
    noise: Noise = "ito",
    tau: float | None = None,
    order: int = 1,
    walls: Any = None,
    comm: Any = None,
) -> Array:
    """Paths from x0 of Langevin's equation, by default dX = b dt + sqrt(2 D) dW in Ito's sense.

    With the symmetric root S of D, S S = D, the paths and the equation of their density are

    - "ito": dX = b dt + sqrt(2) S dW, d rho/dt = div(div(D rho) - rho b);
    - "stratonovich": dX = b dt + sqrt(2) S o dW, d rho/dt = div(S div(S rho) - rho b);
    - "kinetic": dX = (b + div D) dt + sqrt(2) S dW in Ito's sense,
      d rho/dt = div(D grad rho - rho b).

    They are those of `FokkerPlanck` with the same diffusion, drift and noise, which is kinetic
    there by default. For a constant D all three are the same.

    Parameters
    ----------
    x0 : array (dim, n)
        The points at the start.
    drift : function or array (dim,)
        b(x) or b(x, t) with values (dim, n), or a constant.
    diffusion : number, array or function
        D: a number of at least 0, a diagonal (dim,), a symmetric positive semidefinite tensor
        (dim, dim), or a function of x or (x, t) with values (n,), (dim, n) or (dim, dim, n).
    t : float or array (n_times,)
        A final time, or increasing times, the first of which is the start.
    seed : int
        The same seed gives the same paths, on any number of ranks.
    noise : {"ito", "stratonovich", "kinetic"}
        Which of the equations above it is.
    tau : float, optional
        The largest step. None: a thousandth of the whole time, and of the time between two of the
        times t where b or D, sampled at x0, changes faster than steps follow.
    order : 1 or 2
        The order in tau of means of functions of X. 1: Euler-Maruyama; 2: Heun's steps (Platen's
        scheme), for a constant D, and if that is a tensor, without walls.
    walls : pair of arrays (dim,), optional
        (lower, upper), the corners of a box whose walls reflect.
    comm : MPI communicator, optional
        Each rank moves blocks of particles, so that b and D must not be collective.

    Returns
    -------
    array (n_times, dim, n)
        All paths, on every rank.

    Raises
    ------
    InputError
        On every rank: for points, coefficients, times or steps that cannot be used, for a diffusion
        below 0, or one that is not constant with order 2, and for points outside the walls.

    Notes
    -----
    Slopes of D are central differences, at points inside the walls. With "stratonovich" and a
    tensor they are those of S, which has none where an eigenvalue falls to 0 like a distance.

    Adaptive steps resolve events that last at least 1/200 of the time between two of the times t
    and 1/4000 of the whole time, but their beginning and end only to the length of a step: include
    the times of pulses and jumps in t. A tau that is too long for the sampled coefficients causes a
    warning. (Kloeden, Platen 1992; walls: Bossy, Gobet, Talay 2004)

    Examples
    --------
    >>> import numpy as np
    >>> from fvot import particles
    >>> paths = particles.langevin(np.zeros((1, 1000)), lambda x: -x, 0.5, 5.0, seed=1)
    >>> paths.shape
    (2, 1, 1000)
    >>> bool(0.4 < paths[-1].var() < 0.6)
    True
    """
    ranks = Ranks(comm)
    with ranks.raising_together():
        start = _check_start(x0)
        b = as_function(drift, "drift", (len(start),))
        box = _Box(walls, start)
    times = check_times(ranks, t)
    check_step(ranks, tau, times)
    with ranks.raising_together():
        D = as_diffusion_function(diffusion, "diffusion", start, _find_earliest(times))
        _check_langevin(order, D, seed, noise, box)
        equation = _Langevin(b, D, noise, box, _choose_difference_step(D, start, times, box))
    constant_drift = repr(b.f) if not callable(b.f) else ""
    constant_diffusion = repr(D.f) if not callable(D.f) else ""
    ranks.check_same(
        "seed, order, noise and what drift and diffusion are",
        (seed, order, noise, constant_drift, constant_diffusion, walls),
    )
    ranks.check_same_array("x0", start)

    counts = _count_steps(ranks, start, b, D, times, tau)
    n = start.shape[1]
    blocks = [slice(i, i + PARTICLES_PER_STREAM) for i in range(0, n, PARTICLES_PER_STREAM)]
    streams = np.random.SeedSequence(seed).spawn(len(blocks))
    paths = np.zeros((len(times), *start.shape))
    with ranks.raising_together():
        for k in range(ranks.rank, len(blocks), ranks.size):
            random = np.random.default_rng(streams[k])
            columns = blocks[k]
            paths[..., columns] = _walk(start[:, columns], equation, times, random, counts, order)
    return ranks.sum(paths) if ranks.size > 1 else paths


# ---- noise ---------------------------------------------------------------------------------------


def _check_langevin(order, D, seed, noise, box):
    if order not in (1, 2) or isinstance(order, bool):
        raise InputError(f"order must be 1 or 2, not {order!r}")
    if order == 2 and callable(D.f):
        raise InputError("order=2 takes a constant diffusion: give a number, or order=1")
    if order == 2 and len(D.shape) == 2 and box.walls is not None:
        raise InputError("order=2 takes no tensor between walls: give a diagonal, or order=1")
    if not callable(D.f):
        _check_diffusion(D.f[..., None])
    if not is_integer(seed) or seed < 0:
        raise InputError(f"seed must be a whole number of at least 0, not {seed!r}")
    check_noise(noise)


def _count_steps(ranks, x0, b, D, t, tau):
    """The numbers of steps between each two of the times t (n,), at most tau long. Collective."""
    longest = (t[-1] - t[0]) / LANGEVIN_STEPS if tau is None else tau
    counts = []
    for length in np.diff(t):
        steps = length / longest * (1 - 1e-12)
        counts.append(math.ceil(steps))

    changing = [f for f in (b, D) if f.depends_on_time]
    missed = _find_missed_events(ranks, x0, changing, t, counts)
    if tau is None:
        return [LANGEVIN_STEPS if i in missed else count for i, count in enumerate(counts)]

    if missed and ranks.is_root:
        i = missed[0]
        warn(
            f"drift or diffusion changes within steps of {(t[i + 1] - t[i]) / counts[i]:.3g} "
            f"between t = {t[i]:.6g} and {t[i + 1]:.6g}, which may miss it: leave out tau, give a "
            "smaller one, or include the times of pulses and jumps in t"
        )
    return counts


def _find_missed_events(ranks, x0, functions, t, counts):
    """The intervals of t in which a step may pass over a change of the functions. Collective."""
    if not functions:
        return []

    stride = math.ceil(x0.shape[1] / WATCHED_POINTS)
    points = x0[:, ::stride]

    def sample(now: Array) -> Array:
        # Coefficients may jump at both ends: look inside.
        begin = now[0]
        end = now[-1]
        earliest = np.nextafter(begin, end)
        latest = np.nextafter(end, begin)
        now = np.clip(now, earliest, latest)
        signals = []
        for f in functions:
            samples = [f(points, at).ravel() for at in now]
            signals.append(np.stack(samples, axis=1))
        return np.concatenate(signals)

    def changes(watch: Watch, i: int) -> bool:
        h = (t[i + 1] - t[i]) / counts[i]
        return not all(watch.is_calm(t[i] + k * h, t[i] + (k + 1) * h) for k in range(counts[i]))

    missed = []
    for first, last in _group_intervals(t):
        # Shorter steps miss nothing that the watch would see.
        watched = [i for i in range(first, last + 1) if counts[i] <= WATCHED_TIMES]
        if not watched:
            continue

        watch = Watch(ranks, sample, t[first], t[last + 1])
        changing = [i for i in watched if changes(watch, i)]
        if last > first:  # looked at from inside, what jumps at the times t is calm
            changing = [i for i in changing if changes(Watch(ranks, sample, t[i], t[i + 1]), i)]
        missed += changing
    return missed


def _group_intervals(t):
    """Pairs (first, last) of the intervals of t that share a look: near times, or one interval."""
    longest = SHARED_LOOK * (t[-1] - t[0])
    groups = []
    first = 0
    for i in range(1, len(t) - 1):
        if t[i + 1] - t[first] > longest:
            groups.append((first, i - 1))
            first = i
    return [*groups, (first, len(t) - 2)]


@dataclass(frozen=True)
class _Langevin:
    """Langevin's equation between walls, as steps in Ito's sense.

    b, D, noise : as `langevin` takes them
    box : the walls
    difference_step : of differences of D
    """

    b: Function
    D: Function
    noise: Noise
    box: _Box
    difference_step: float

    def compute_drift(self, x: Array, t: float) -> Array:
        """Ito's drift (dim, n)."""
        velocity = self.b(x, t)
        if self.noise == "ito" or not callable(self.D.f):
            return velocity

        step = self.difference_step
        inside = self.box.inside(x, 2 * step)
        kinetic = velocity - compute_noise_drift(self.D, inside, t, self.noise, step)
        return kinetic + compute_noise_drift(self.D, inside, t, "ito", step)

    def draw(self, x: Array, t: float, h: float, random: np.random.Generator) -> Array:
        """sqrt(2) S dW (dim, n) for a step h."""
        # A constant has the same root everywhere.
        D = self.D(x if callable(self.D.f) else x[:, :1], t)
        _check_diffusion(D, x)
        normal = random.standard_normal(x.shape)
        if D.ndim < 3:
            return np.sqrt(2 * D * h) * normal
        return np.einsum("ijn,jn->in", take_root(2 * D * h), normal)

    def reflect(self, x: Array, t: float) -> tuple[Array, Any]:
        """x (dim, n) between the walls, and the sign of each velocity there."""
        if len(self.D.shape) == 2 and self.box.walls is not None:
            x = self._reflect_along_conormals(x, t)
        return self.box.reflect(x)

    def _reflect_along_conormals(self, x, t):
        """x (dim, n), moved along D n by twice the distance behind each wall."""
        x = x.copy()
        for axis in range(len(x)):
            behind = x[axis] - self.box.inside(x)[axis]
            out = np.flatnonzero(behind)
            if not len(out):
                continue

            D = self.D(self.box.inside(x[:, out]), t)
            conormal = D[:, axis]
            across = D[axis, axis]
            direction = conormal / np.where(across > 0, across, 1.0)
            direction[axis] = 1.0
            x[:, out] -= 2 * behind[out] * direction
        return x


def _check_diffusion(D, x=None):
    """`InputError` unless D are numbers of at least 0, (n,) or (dim, n), or symmetric positive
    semidefinite tensors (dim, dim, n).

    x : the points (dim, n) where they are; None for a constant
    """
    if D.ndim == 3:
        fault = find_faulty_tensor(D)
    else:
        smallest = np.atleast_2d(D).min(axis=0)
        bad = np.flatnonzero(smallest < 0)
        fault = (bad[0], f"{smallest[bad[0]]:.6g}") if len(bad) else None
    if fault is None:
        return

    i, problem = fault
    place = "" if x is None else f" at x = {x[:, i]}"
    wanted = "symmetric and positive semidefinite" if D.ndim == 3 else "at least 0"
    raise InputError(f"diffusion must be {wanted}, but is {problem}{place}")


def _find_earliest(t):
    """The first time after the start: coefficients may jump there."""
    return np.nextafter(t[0], t[-1])


def _choose_difference_step(D, x0, t, box):
    """The step of differences of D: a small part of the size of the cloud of particles, which is at
    least as far as it spreads by diffusion.
    """
    D0 = D(x0, _find_earliest(t))
    _check_diffusion(D0, x0)
    extent = np.ptp(x0, axis=1).max()
    spread = math.sqrt(2 * D0.max() * (t[-1] - t[0]))
    size = max(extent, spread) or 1.0
    if box.walls is not None:
        size = min(size, (box.upper - box.lower).min())
    return max(DIFFUSION_STEP * size, SMALLEST_DIFFUSION_STEP * np.abs(x0).max())


def _walk(x, equation, t, random, counts, order):
    """The paths (n_times, dim, k) of one block of particles."""
    path = [x]
    for begin, end, count in zip(t[:-1], t[1:], counts, strict=True):
        h = (end - begin) / count
        # Coefficients may jump at both ends: look inside.
        earliest, latest = np.nextafter([begin, end], [end, begin])
        for now in (begin + h * k for k in range(count)):
            at = max(now, earliest)
            then = min(now + h, latest)
            noise = equation.draw(x, at, h, random)
            velocity = equation.compute_drift(x, at)
            if order == 2:
                predicted, sign = equation.reflect(x + h * velocity + noise, then)
                velocity_there = equation.compute_drift(predicted, then)
                velocity = (velocity + sign * velocity_there) / 2
            x, _ = equation.reflect(x + h * velocity + noise, then)
        path.append(x)
    return np.stack(path)


# ---- walls ---------------------------------------------------------------------------------------


def _build_domain(walls, x0):
    return _MeshWalls(walls, x0) if hasattr(walls, "nearest") else _Box(walls, x0)


def _choose_tolerance(rtol, domain):
    if rtol is None:
        return domain.rtol
    if not is_number(rtol) or not 1e-14 < rtol < 1:
        raise InputError(f"rtol must be a number between 1e-14 and 1, not {rtol!r}")
    return rtol


class _MeshWalls:
    """The walls of a mesh."""

    rtol = 1e-3

    def __init__(self, mesh: Any, x0: Array):
        if mesh.dim != len(x0):
            raise InputError(f"walls is a mesh in {mesh.dim}D, but x0 are points in {len(x0)}D")
        mesh.locate(x0)  # raises where some are outside
        self.inside = mesh.nearest
        self.walls = mesh.walls

    def find_room(self, x: Array) -> Array:
        """The distance (n,) of points inside (dim, n) from the walls."""
        to_wall = self.walls.find_nearest(x) - x
        return np.sqrt((to_wall**2).sum(axis=0))

    def constrain(self, x: Array, v: Function, t: float) -> Array:
        """v (dim, n) at the nearest points inside, without the component that leads outwards."""
        inside = self.inside(x)
        outward = _normalise(x - inside)
        velocity = v(inside, t)
        speed_outward = (velocity * outward).sum(axis=0)
        lost = np.maximum(speed_outward, 0)
        return velocity - lost * outward


def _normalise(step):
    """Unit vectors (dim, n); 0 for steps of length 0."""
    size = np.sqrt((step**2).sum(axis=0))
    return step / np.where(size > 0, size, 1.0)


class _Box:
    """Two corners as walls, or no walls."""

    rtol = 1e-8

    def __init__(self, walls: Any, x0: Array):
        self.walls = walls
        if walls is None:
            return

        dim = len(x0)
        try:
            lower, upper = (
                np.broadcast_to(np.asarray(corner, float), (dim,))[:, None] for corner in walls
            )
        except (TypeError, ValueError):
            raise InputError(
                f"walls must be two corners (lower, upper) of a box in {dim}D, not {walls!r:.60}"
            ) from None
        if not (lower < upper).all() or not ((x0 >= lower) & (x0 <= upper)).all():
            raise InputError(
                "walls must be the lower and the upper corner of a box around x0, not "
                f"{walls!r:.60}"
            )

        self.lower = lower
        self.upper = upper

    def inside(self, x: Array, margin: float = 0.0) -> Array:
        """x (dim, n), with points beyond walls, or nearer than the margin, moved inside."""
        if self.walls is None:
            return x
        return np.clip(x, self.lower + margin, self.upper - margin)

    def find_room(self, x: Array) -> Array:
        """The distance (n,) of points inside (dim, n) from the walls."""
        if self.walls is None:
            return np.full(x.shape[1], np.inf)

        to_lower = x - self.lower
        to_upper = self.upper - x
        return np.minimum(to_lower, to_upper).min(axis=0)

    def constrain(self, x: Array, v: Function, t: float) -> Array:
        """v (dim, n) at x and t, without components that lead out of the box."""
        if self.walls is None:
            return v(x, t)

        velocity = v(self.inside(x), t)
        leaves_above = (x >= self.upper) & (velocity > 0)
        leaves_below = (x <= self.lower) & (velocity < 0)
        return np.where(leaves_above | leaves_below, 0.0, velocity)

    def reflect(self, x: Array) -> tuple[Array, Any]:
        """(x between the walls, the sign of each velocity there), for x (dim, n) on the unfolded
        line.
        """
        if self.walls is None:
            return x, 1.0
        if ((x >= self.lower) & (x <= self.upper)).all():
            return x, 1.0

        # One reflection is exact; only where it is not enough, fold by the period.
        below = x < self.lower
        above = x > self.upper
        once = np.where(above, 2 * self.upper - x, x)
        once = np.where(below, 2 * self.lower - x, once)

        width = self.upper - self.lower
        period = np.where(np.isinf(width), 1.0, width)
        if np.isfinite(width).all():
            place = (x - self.lower) % (2 * period)
        else:
            place = np.zeros(x.shape)
        is_mirrored = place > period
        folded = self.lower + np.where(is_mirrored, 2 * period - place, place)

        is_still_outside = (once < self.lower) | (once > self.upper)
        is_turned = np.where(is_still_outside, is_mirrored, once != x)
        place_inside = np.where(is_still_outside, folded, once)
        sign = np.where(is_turned, -1.0, 1.0)
        return place_inside, sign


# ---- the density along a flow --------------------------------------------------------------------


def _check_densities(rho0, x0):
    """rho0 (n,) at x0; `InputError` unless it is finite and at least 0."""
    refuse_masked(rho0, "rho0 must be numbers")
    try:
        if callable(rho0):
            f = as_function(rho0, "rho0", of=("x",))
            values = f(x0, 0.0)
        else:
            values = np.asarray(rho0, float)
        densities = values + np.zeros(x0.shape[1])
    except (TypeError, ValueError):
        densities = np.array([np.nan])
    is_density = np.isfinite(densities) & (densities >= 0)
    if densities.shape != x0.shape[1:] or not is_density.all():
        raise InputError(
            f"rho0 must be a function, a number or {x0.shape[1]} numbers of at least 0, not "
            f"{rho0!r:.60}"
        )

    return densities


class _Differences:
    """div v by differences of order 4.

    They are central, and one-sided where these would reach behind walls.

    h (n,) : their steps; the longest ones for which half of them gives the same at the start
    """

    # Pairs of (step, weight): central, ahead, back.
    KINDS = (
        ((1, 2 / 3), (-1, -2 / 3), (2, -1 / 12), (-2, 1 / 12), (0, 0.0)),
        ((0, -25 / 12), (1, 4.0), (2, -3.0), (3, 4 / 3), (4, -1 / 4)),
        ((0, 25 / 12), (-1, -4.0), (-2, 3.0), (-3, -4 / 3), (-4, 1 / 4)),
    )
    CENTRAL, AHEAD, BACK = range(3)
    STEPS, WEIGHTS = np.array(KINDS).transpose(2, 1, 0)  # (5, kinds)

    # Reach of a stencil in units of its step, with a little to spare.
    REACH = 4.01

    # Offset, in steps, of the second points where steps are tried.
    TRIAL_OFFSET = 0.37

    def __init__(self, v: Function, domain: _MeshWalls | _Box, x0: Array, t: float):
        self.v = v
        self.domain = domain
        extent = np.ptp(x0, axis=1).max()
        farthest = np.abs(x0).max()
        size = max(extent, farthest, 1e-300)
        n_points = x0.shape[1]
        self.h = np.full(n_points, FIRST_DIFFERENCE_STEP * size)
        smallest = 1e-7 * self.h + 1e-9 * np.abs(x0).max(axis=0)
        for _ in range(MAX_DIFFERENCE_HALVINGS):
            beside = domain.inside(x0 + self.TRIAL_OFFSET * self.h)
            is_long = self.h > smallest
            is_rough_here = self._is_rough(x0, t)
            is_rough_beside = self._is_rough(beside, t)
            is_rough = is_long & (is_rough_here | is_rough_beside)
            if not is_rough.any():
                break
            self.h = np.where(is_rough, self.h / 2, self.h)

    def _is_rough(self, x, t):
        """Whether half the steps (n,) give another divergence at x (dim, n)."""
        whole = self(x, t)
        h = self.h
        speed = np.abs(self.v(x, t)).max(axis=0)
        self.h = h / 2
        half = self(x, t)
        self.h = h
        scale = np.maximum(np.abs(half), SMALLEST_DERIVATIVE * speed / h)
        return np.abs(whole - half) > DIFFERENCE_TOLERANCE * scale

    def __call__(self, x, t):
        dim = len(x)
        room = self.domain.find_room(x)
        near_walls = np.flatnonzero(room <= self.REACH * self.h)
        kind = np.full(x.shape, self.CENTRAL)
        if len(near_walls):
            x_near = x[:, near_walls]
            h_near = self.h[near_walls]
            kind[:, near_walls] = self._choose_kinds(x_near, h_near)

        steps = self.STEPS[:, kind] * self.h
        points = _step_along_axes(x, steps)
        if len(near_walls):
            points_near = points[..., near_walls]
            points[..., near_walls] = self._move_inside(points_near)

        weight = self.WEIGHTS[:, kind]
        is_used = weight != 0
        values = np.zeros((dim, *weight.shape))
        values[:, is_used] = self.v(points[:, is_used], t)
        return np.einsum("ikin,kin->n", values, weight) / self.h

    def _choose_kinds(self, x, h):
        """The KINDS that stay inside at x (dim, k), along each axis: (dim, k)."""
        reaches = np.multiply.outer([2, -2, 4], np.ones(x.shape))
        points = _step_along_axes(x, reaches * h)
        moved = np.abs(self._move_inside(points) - points)
        stays = (moved <= 1e-9 * h).all(axis=0)
        two_ahead, two_back, four_ahead = stays
        one_sided = np.where(four_ahead, self.AHEAD, self.BACK)
        return np.where(two_ahead & two_back, self.CENTRAL, one_sided)

    def _move_inside(self, points):
        flat = points.reshape(len(points), -1)
        inside = self.domain.inside(flat)
        return inside.reshape(points.shape)


def _step_along_axes(x, step):
    """Points (dim, m, axes, n): x (dim, n) moved by step (m, axes, n) along each of the axes."""
    axes = np.eye(len(x))
    return x[:, None, None] + axes[:, None, :, None] * step


# ---- the integrator ------------------------------------------------------------------------------


def _build_signals(v, domain, shape):
    """Signals of the changes of a velocity: (state, t) -> v there, at some of the points.

    None for a steady velocity, and within the walls of a mesh, whose velocities are linear between
    recorded times.
    """
    if not v.depends_on_time or isinstance(domain, _MeshWalls):
        return None

    size = math.prod(shape)
    stride = math.ceil(shape[1] / WATCHED_POINTS)

    def sample(state: Array, t: Array) -> Array:
        x = state[:size].reshape(shape)
        points = domain.inside(x)[:, ::stride]
        samples = [v(points, now).ravel() for now in t]
        return np.stack(samples, axis=1)

    return sample


class _CountedRate:
    """A rate of change whose calls are counted; raises `ConvergenceError` after too many."""

    def __init__(self, rate: Callable[[float, Array], Array], begin: float, end: float):
        self.rate = rate
        self.end = end
        self.calls = 0
        self.now = begin

    def __call__(self, now, state):
        self.calls += 1
        self.now = now
        if self.calls > MAX_VELOCITY_CALLS:
            raise ConvergenceError(
                f"the integrator has called the velocity {MAX_VELOCITY_CALLS} times and is at t = "
                f"{now:.6g} of a run to {self.end:.6g}: does the velocity jump, or is it stiff? A "
                "larger rtol may help"
            )
        return self.rate(now, state)


def _integrate(rate, start, t, rtol, signals):
    """The states at the times t.

    signals(state, t) : those of the velocity at many times, see `_build_signals`. Where they are
        not calm, the integrator restarts on every calm piece between two times, so that its steps
        do not pass over a pulse
    """
    method = "RK23" if rtol >= LOW_ORDER_TOLERANCE else "DOP853"
    counted = _CountedRate(rate, t[0], t[-1])
    size = max(np.abs(start).max(), 1e-12)
    atol = rtol * size / 100

    def advance(state: Array, times: Array) -> Array:
        span = (times[0], times[-1])
        solution = solve_ivp(
            counted, span, state, method=method, t_eval=times, rtol=rtol, atol=atol
        )
        if not solution.success:
            raise ConvergenceError(
                f"the integrator stops at t = {counted.now:.6g}: {solution.message}"
            )
        return solution.y.T

    if signals is None:
        return advance(start, t)

    states = [start]
    for begin, end in zip(t[:-1], t[1:], strict=True):
        state = states[-1]
        watch = Watch(Ranks(), partial(signals, state), begin, end)
        for until in watch.ends(begin, end):
            state = advance(state, np.array([begin, until]))[-1]
            begin = until
        states.append(state)
    return np.stack(states)


# ---- the start -----------------------------------------------------------------------------------


def _check_same_start(x0):
    """x0 (dim, n), checked, and the same on every rank."""
    ranks = Ranks()
    with ranks.raising_together():
        x0 = _check_start(x0)
    ranks.check_same_array("x0", x0)
    return x0


def _check_start(x0):
    """A copy of x0 (dim, n), checked; a velocity may change what it is given."""
    given = as_floats(x0, "x0 must be points (dim, n), numbers")
    x0 = np.array(np.atleast_2d(given))
    if x0.ndim != 2 or not x0.shape[1] or len(x0) > 3:
        raise InputError(
            f"x0 must be points (dim, n), dim 1 to 3, n at least 1, not of shape {x0.shape}"
        )

    check_finite(x0, "x0: point")
    return x0
