"""Particles that move: along a flow, or as Langevin's equation says. Independent witnesses for the
solvers on meshes.

Positions are (dim, n), paths (n_times, dim, n). Walls are a pair of corners (lower, upper), for
flows also those of a mesh. A flow stops there; noise is reflected: on the unfolded line a particle
goes on behind its mirror image, in the mirrored drift.
"""

import math
from functools import partial

import numpy as np
from scipy.integrate import solve_ivp

from .arguments.functions import as_floats, as_function, check_finite, is_number, refuse_masked
from .arguments.times import check_step, check_times
from .arguments.watch import WATCHED_TIMES, Watch
from .errors import ConvergenceError, InputError, warn
from .parallel import Ranks

BLOCK = 4096  # particles that share a stream of random numbers, and a rank
MOST = 100_000  # calls of a velocity along the flow
HALVINGS = 30  # at most, of the step of differences, at the start
ROUGH = 1e-4  # the tolerance from which on an integrator of low order does less work
SEEN = 64  # points, at most about twice as many, whose velocities are watched
# of Langevin's equation, where no tau is given; also between two times where much happens there
STEPS = 1000
NUDGE = 1e-2  # first step of differences of velocities, relative to the size of the positions


def push_forward(x0, velocity, t, *, walls=None, rtol=None):
    """Where the flow dx/dt = v(x, t) carries points x0 (dim, n): positions (n_times, dim, n) at the
    times t.

    velocity : v(x) or v(x, t) with values (dim, n), such as the velocity_at of what a solver
        returned
    t : a final time, or increasing times, the first of which is the start
    walls : (lower, upper), corners (dim,) of a box which nothing leaves, or a `Mesh`, as
        velocity_at needs; along walls things slide
    rtol : tolerance of the integrator, SciPy's DOP853, or RK23 from 1e-4 on: velocities of meshes
        jump from cell to cell. None: 1e-8, and 1e-3 inside a mesh

    Pulses and periods of v(x, t) that last at least 1/200 of the time between two of the times are
    not passed over.

    Every rank does the same, so that v may be collective. Raises `InputError`, and
    `ConvergenceError` where the integrator fails.
    """
    x0 = _same_start(x0)
    t = check_times(Ranks(), t)
    v = as_function(velocity, "velocity", (len(x0),))
    domain = _domain(walls, x0)
    rtol = _tolerance(rtol, domain)

    def rate(now, flat):
        return domain.held(flat.reshape(x0.shape), v, now).ravel()

    seen = _seen(v, domain, x0.shape)
    return np.stack(
        [domain.inside(x.reshape(x0.shape)) for x in _integrated(rate, x0.ravel(), t, rtol, seen)]
    )


def density_along_flow(x0, rho0, velocity, t, *, divergence=None, walls=None, rtol=None):
    """(x, rho): positions (n_times, dim, n) of points carried from x0, and the density there
    (n_times, n).

    rho(t, x(t)) = rho0(x0) / det J, J the Jacobian of the flow, by d log det J/dt = div v along the
    way (Liouville; in machine learning a normalising flow, Chen et al. 2018).

    rho0 : a function of x, or values (n,)
    divergence : div v as a function like v; None: by differences of v of order 4, whose steps at x0
        fit
    velocity, t, walls, rtol : as in `push_forward`
    """
    x0 = _same_start(x0)
    t = check_times(Ranks(), t)
    dim, n = x0.shape
    v = as_function(velocity, "velocity", (dim,))
    domain = _domain(walls, x0)
    rtol = _tolerance(rtol, domain)
    start = _densities(rho0, x0)
    div = (
        _Differences(v, domain, x0, t[0])
        if divergence is None
        else as_function(divergence, "divergence")
    )

    def rate(now, flat):
        x = flat[:-n].reshape(dim, n)
        return np.concatenate([domain.held(x, v, now).ravel(), div(domain.inside(x), now)])

    states = _integrated(
        rate, np.concatenate([x0.ravel(), np.zeros(n)]), t, rtol, _seen(v, domain, x0.shape)
    )
    x = np.stack([domain.inside(state[:-n].reshape(dim, n)) for state in states])
    return x, start * np.exp(-np.stack([state[-n:] for state in states]))


def langevin(x0, drift, diffusion, t, seed, *, tau=None, order=1, walls=None, comm=None):
    """Ito's noise: paths (n_times, dim, n) of dX = b dt + sqrt(2 D) dW from x0 (dim, n), the same
    on any number of ranks.

    Their density is that of d rho/dt = div(grad(D rho) - rho b): of `FokkerPlanck`, whose noise is
    kinetic, with the same diffusion and drift = b - grad D, which is b for a constant D.

    drift : b(x) or b(x, t) with values (dim, n); a constant (dim,)
    diffusion : D >= 0, a number or a function of x or (x, t)
    seed : a whole number; the same one gives the same paths
    tau : largest step; None: a thousandth of the whole time, and of the time between two of the
        times t where b or D, seen at x0, changes faster than steps follow. Such steps do not pass
        over what lasts at least 1/200 of that time, but find where it begins and ends to no more
        than a step: name the times of pulses and jumps in t. A tau that is too long for what is
        seen is a warning
    order : of the means of functions of X in tau. 1: Euler-Maruyama; 2: Heun's steps (Platen's
        scheme), for a constant D
    walls : (lower, upper), corners (dim,) of a box whose walls reflect
    comm : MPI communicator; each rank moves blocks of particles, so that b and D must not be
        collective

    Returns all paths on every rank. Raises `InputError`. (Kloeden, Platen 1992)
    """
    ranks = Ranks(comm)
    with ranks.raising_together():
        x0 = _start(x0)
        b, D = as_function(drift, "drift", (len(x0),)), as_function(diffusion, "diffusion")
        _check_langevin(order, D, seed)
        box = _Box(walls, x0)
    t = check_times(ranks, t)
    check_step(ranks, tau, t)
    ranks.check_same(
        "seed, order and what drift and diffusion are",
        (
            seed,
            order,
            repr(b.f) if not callable(b.f) else "",
            repr(D.f) if not callable(D.f) else "",
            walls,
        ),
    )
    ranks.check_same_array("x0", x0)
    counts = _counts(ranks, x0, b, D, t, tau)
    blocks = [slice(i, i + BLOCK) for i in range(0, x0.shape[1], BLOCK)]
    streams = np.random.SeedSequence(seed).spawn(len(blocks))
    mine = range(ranks.rank, len(blocks), ranks.size)
    paths = np.zeros((len(t), *x0.shape))
    with ranks.raising_together():
        for k in mine:
            paths[..., blocks[k]] = _walk(
                x0[:, blocks[k]], b, D, t, np.random.default_rng(streams[k]), counts, order, box
            )
    return ranks.sum(paths) if ranks.size > 1 else paths


def _check_langevin(order, D, seed):
    if order not in (1, 2) or isinstance(order, bool):
        raise InputError(f"order must be 1 or 2, not {order!r}")
    if order == 2 and callable(D.f):
        raise InputError("order=2 takes a constant diffusion: give a number, or order=1")
    if not callable(D.f) and D.f < 0:
        raise InputError(f"diffusion must be at least 0, not {float(D.f):g}")
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed must be a whole number of at least 0, not {seed!r}")


def _counts(ranks, x0, b, D, t, tau):
    """The numbers of steps between each two of the times t (n,), at most tau long. Collective."""
    longest = (t[-1] - t[0]) / STEPS if tau is None else tau
    counts = [math.ceil(length / longest * (1 - 1e-12)) for length in np.diff(t)]
    some = x0[:, :: math.ceil(x0.shape[1] / SEEN)]
    functions = [f for f in (b, D) if f.depends_on_time]

    def seen(now):
        now = np.clip(
            now, *np.nextafter([now[0], now[-1]], [now[-1], now[0]])
        )  # things may jump at both ends
        return np.concatenate(
            [np.stack([f(some, at).ravel() for at in now], axis=1) for f in functions]
        )

    missed = []
    for i, count in enumerate(counts):
        if count > WATCHED_TIMES or not functions:
            continue  # so short steps miss nothing that is watched for
        watch = Watch(ranks, seen, t[i], t[i + 1])
        h = (t[i + 1] - t[i]) / count
        if not all(watch.is_calm(t[i] + k * h, t[i] + (k + 1) * h) for k in range(count)):
            missed.append(i)
    if tau is None:
        return [STEPS if i in missed else count for i, count in enumerate(counts)]
    if missed and ranks.is_root:
        i = missed[0]
        warn(
            f"drift or diffusion changes within steps of {(t[i + 1] - t[i]) / counts[i]:.3g} "
            f"between t = {t[i]:.6g} and "
            f"{t[i + 1]:.6g}, which may pass over it: leave out tau, give a smaller one, or name "
            "the times of pulses and "
            "jumps in t"
        )
    return counts


def _walk(x, b, D, t, random, counts, order, box):
    """The paths (n_times, dim, k) of one block of particles."""
    path = [x]
    for begin, end, count in zip(t[:-1], t[1:], counts, strict=True):
        h = (end - begin) / count
        first, last = np.nextafter([begin, end], [end, begin])  # things may jump at both
        for now in (begin + h * k for k in range(count)):
            at = max(now, first)
            then = min(now + h, last)
            spread = D(x, at)
            if (spread < 0).any():
                raise InputError(f"diffusion must be at least 0, but is {spread.min():.6g}")
            noise = np.sqrt(2 * spread * h) * random.standard_normal(x.shape)
            here = b(x, at)
            if order == 2:
                ahead, sign = box.folded(x + h * here + noise)
                here = (here + sign * b(ahead, then)) / 2
            x = box.folded(x + h * here + noise)[0]
        path.append(x)
    return np.stack(path)


def _domain(walls, x0):
    return _Inside(walls, x0) if hasattr(walls, "nearest") else _Box(walls, x0)


def _tolerance(rtol, domain):
    if rtol is None:
        return domain.rtol
    if not is_number(rtol) or not 1e-14 < rtol < 1:
        raise InputError(f"rtol must be a number between 1e-14 and 1, not {rtol!r}")
    return rtol


class _Inside:
    """The walls of a mesh."""

    rtol = 1e-3

    def __init__(self, mesh, x0):
        if mesh.dim != len(x0):
            raise InputError(f"walls is a mesh in {mesh.dim}D, but x0 are points in {len(x0)}D")
        mesh.locate(x0)  # raises where some are outside
        self.inside = mesh.nearest
        self.walls = mesh.walls

    def room(self, x):
        """How far points inside (dim, n) are from the walls (n,)."""
        return np.sqrt(((self.walls.find_nearest(x) - x) ** 2).sum(axis=0))

    def held(self, x, v, t):
        """v (dim, n) at the nearest points inside, without what leads farther away from them."""
        inside = self.inside(x)
        n = _directions(x - inside)
        found = v(inside, t)
        return found - np.maximum((found * n).sum(axis=0), 0) * n


def _directions(step):
    """Unit vectors (dim, n); 0 for steps of length 0."""
    size = np.sqrt((step**2).sum(axis=0))
    return step / np.where(size > 0, size, 1.0)


class _Box:
    """Two corners as walls, or no walls."""

    rtol = 1e-8

    def __init__(self, walls, x0):
        self.walls = walls
        if walls is None:
            return
        try:
            lower, upper = (
                np.broadcast_to(np.asarray(corner, float), (len(x0),))[:, None] for corner in walls
            )
        except (TypeError, ValueError):
            raise InputError(
                f"walls must be two corners (lower, upper) of a box in {len(x0)}D, not "
                f"{walls!r:.60}"
            ) from None
        if not (lower < upper).all() or not ((x0 >= lower) & (x0 <= upper)).all():
            raise InputError(
                "walls must be the lower and the upper corner of a box around x0, not "
                f"{walls!r:.60}"
            )
        self.lower, self.upper = lower, upper

    def inside(self, x):
        """x (dim, n), those beyond walls moved there."""
        return x if self.walls is None else np.clip(x, self.lower, self.upper)

    def room(self, x):
        """How far points inside (dim, n) are from the walls (n,)."""
        return (
            np.full(x.shape[1], np.inf)
            if self.walls is None
            else np.minimum(x - self.lower, self.upper - x).min(axis=0)
        )

    def held(self, x, v, t):
        """v (dim, n) at x and t, without what leads out of the box."""
        if self.walls is None:
            return v(x, t)
        found = v(self.inside(x), t)
        return np.where(
            (x >= self.upper) & (found > 0) | (x <= self.lower) & (found < 0), 0.0, found
        )

    def folded(self, x):
        """x (dim, n) on the unfolded line -> (x between the walls, the sign of each velocity
        there).
        """
        if self.walls is None:
            return x, 1.0
        if ((x >= self.lower) & (x <= self.upper)).all():
            return x, 1.0
        width = self.upper - self.lower
        period = np.where(np.isinf(width), 1.0, width)
        place = (x - self.lower) % (2 * period) if np.isfinite(width).all() else np.zeros(x.shape)
        once = np.where(
            x < self.lower, 2 * self.lower - x, np.where(x > self.upper, 2 * self.upper - x, x)
        )
        more = self.lower + np.where(place > period, 2 * period - place, place)
        still = (once < self.lower) | (once > self.upper)
        turned = np.where(still, place > period, once != x)
        return np.where(still, more, once), np.where(turned, -1.0, 1.0)


def _densities(rho0, x0):
    """rho0 (n,) at x0."""
    refuse_masked(rho0, "rho0 must be numbers")
    try:
        values = (
            as_function(rho0, "rho0", of=("x",))(x0, 0.0)
            if callable(rho0)
            else np.asarray(rho0, float)
        )
        found = values + np.zeros(x0.shape[1])
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if found.shape != x0.shape[1:] or not (np.isfinite(found) & (found >= 0)).all():
        raise InputError(
            f"rho0 must be a function, a number or {x0.shape[1]} numbers of at least 0, not "
            f"{rho0!r:.60}"
        )
    return found


class _Differences:
    """div v by differences of order 4: central ones, and one-sided ones where these would reach
    behind walls.

    h (n,) : their steps; the longest ones for which half of them gives the same at the start
    """

    KINDS = (
        ((1, 2 / 3), (-1, -2 / 3), (2, -1 / 12), (-2, 1 / 12), (0, 0.0)),
        ((0, -25 / 12), (1, 4.0), (2, -3.0), (3, 4 / 3), (4, -1 / 4)),
        ((0, 25 / 12), (-1, -4.0), (-2, 3.0), (-3, -4 / 3), (-4, 1 / 4)),
    )  # central, ahead, back
    STEPS, WEIGHTS = np.array(KINDS).transpose(2, 1, 0)  # (5, kinds)

    def __init__(self, v, domain, x0, t):
        self.v = v
        self.domain = domain
        self.h = np.full(
            x0.shape[1], NUDGE * max(np.ptp(x0, axis=1).max(), np.abs(x0).max(), 1e-300)
        )
        smallest = 1e-7 * self.h + 1e-9 * np.abs(x0).max(axis=0)
        for _ in range(HALVINGS):
            rough = (self.h > smallest) & (
                self._miss(x0, t) | self._miss(domain.inside(x0 + 0.37 * self.h), t)
            )
            if not rough.any():
                break
            self.h = np.where(rough, self.h / 2, self.h)

    def _miss(self, x, t):
        """Whether half the steps (n,) give something else at x (dim, n)."""
        whole = self(x, t)
        h = self.h
        size = np.abs(self.v(x, t)).max(axis=0)
        self.h = h / 2
        half = self(x, t)
        self.h = h
        return np.abs(whole - half) > 1e-8 * np.maximum(np.abs(half), 1e-3 * size / h)

    def __call__(self, x, t):
        dim = len(x)
        near = np.flatnonzero(self.domain.room(x) <= 4.01 * self.h)
        kind = np.zeros(x.shape, int)
        if len(near):  # a wall may be within reach of a stencil
            kind[:, near] = self._kinds(x[:, near], self.h[near])
        points = _along_axes(x, self.STEPS[:, kind] * self.h)
        if len(near):
            points[..., near] = self._inside(points[..., near])
        weight = self.WEIGHTS[:, kind]
        asked = weight != 0
        values = np.zeros((dim, *weight.shape))
        values[:, asked] = self.v(points[:, asked], t)
        return np.einsum("ikin,kin->n", values, weight) / self.h

    def _kinds(self, x, h):
        """Which of KINDS stay inside at x (dim, k), along each axis: (dim, k)."""
        points = _along_axes(x, np.multiply.outer([2, -2, 4], np.ones(x.shape)) * h)
        ahead, back, far = (np.abs(self._inside(points) - points) <= 1e-9 * h).all(axis=0)
        return np.where(ahead & back, 0, np.where(far, 1, 2))

    def _inside(self, points):
        return self.domain.inside(points.reshape(len(points), -1)).reshape(points.shape)


def _along_axes(x, step):
    """Points (dim, m, axes, n): x (dim, n) moved by step (m, axes, n) along each of the axes."""
    return x[:, None, None] + np.eye(len(x))[:, None, :, None] * step


def _seen(v, domain, shape):
    """What tells when a velocity changes: (state, t) -> v there, of some of the points; None for a
    steady velocity.

    None within the walls of a mesh, too, whose velocities are linear between recorded times.
    """
    if not v.depends_on_time or isinstance(domain, _Inside):
        return None
    some = slice(None, None, math.ceil(shape[1] / SEEN))

    def seen(state, t):
        x = domain.inside(state[: math.prod(shape)].reshape(shape))
        return np.stack([v(x[:, some], now).ravel() for now in t], axis=1)

    return seen


def _integrated(rate, start, t, rtol, seen):
    """The states at the times t.

    seen(state, t) : signals of the velocity at many times, as `_seen` makes them: where they are
        not calm, the integrator begins anew on every calm piece between two times, lest its steps
        pass over a pulse
    """
    method = "RK23" if rtol >= ROUGH else "DOP853"
    calls = 0
    now = t[0]

    def counted(at, state):
        nonlocal calls, now
        calls = calls + 1
        now = at
        if calls > MOST:
            raise ConvergenceError(
                f"the integrator has called the velocity {MOST} times and is at t = {at:.6g}, on "
                "its way to "
                f"{t[-1]:.6g}: does the velocity jump, or is it stiff? A larger rtol may help"
            )
        return rate(at, state)

    def moved(state, times):
        size = max(np.abs(start).max(), 1e-12)
        found = solve_ivp(
            counted,
            (times[0], times[-1]),
            state,
            method=method,
            t_eval=times,
            rtol=rtol,
            atol=rtol * size / 100,
        )
        if not found.success:
            raise ConvergenceError(f"the integrator stops at t = {now:.6g}: {found.message}")
        return found.y.T

    if seen is None:
        return moved(start, t)
    states = [start]
    for begin, end in zip(t[:-1], t[1:], strict=True):
        state = states[-1]
        for until in Watch(Ranks(), partial(seen, state), begin, end).ends(begin, end):
            state = moved(state, np.array([begin, until]))[-1]
            begin = until
        states.append(state)
    return np.stack(states)


def _same_start(x0):
    """x0 (dim, n), the same on every rank."""
    ranks = Ranks()
    with ranks.raising_together():
        x0 = _start(x0)
    ranks.check_same_array("x0", x0)
    return x0


def _start(x0):
    x0 = np.array(
        np.atleast_2d(as_floats(x0, "x0 must be points (dim, n), numbers"))
    )  # a velocity may change its own copy
    if x0.ndim != 2 or not x0.shape[1] or len(x0) > 3:
        raise InputError(
            f"x0 must be points (dim, n), dim 1 to 3, n at least 1, not of shape {x0.shape}"
        )
    check_finite(x0, "x0: point")
    return x0
