"""Identities that the theory of transport and gradient flows demands between independent solvers,
and how far they hold.

    python demos/witnesses.py
    mpirun -n 2 python demos/witnesses.py --n 48

Each line names an identity and its theorem, the two sides that are compared, their difference, and
the largest admissible difference on a mesh with n cells along a side. Static transport and
particles are independent of the solvers on meshes.
"""

from itertools import permutations

import numpy as np
from mpi4py import MPI

import fvot
from fvot import (
    JKO,
    BenamouBrenier,
    ContinuityEquation,
    Entropy,
    FokkerPlanck,
    Mesh,
    Potential,
    Power,
    SchroedingerBridge,
    otto,
    particles,
    static,
)


def swirl(x):
    """A stream function of a flow in the unit square that circulates around (0.5, 0.5), and
    stays inside.
    """
    return np.sin(np.pi * x[0]) ** 2 * np.sin(np.pi * x[1]) ** 2 / np.pi


def velocity(x):
    s = np.sin(np.pi * x)
    c = np.cos(np.pi * x)
    return np.stack([2 * s[0] ** 2 * s[1] * c[1], -2 * s[1] ** 2 * s[0] * c[0]])


def blob(place, width=0.12):
    return lambda x: (
        np.exp(-((x - np.reshape(place, (len(x), 1))) ** 2).sum(axis=0) / (2 * width**2)) + 1e-3
    )


BANK = {
    "x": (lambda x: x[0], lambda x: np.stack([np.ones_like(x[0]), 0 * x[0]])),
    "x y": (lambda x: x[0] * x[1], lambda x: x[::-1]),
    "cos": (
        lambda x: np.cos(3 * x[0] + x[1]),
        lambda x: -np.sin(3 * x[0] + x[1]) * np.array([[3.0], [1.0]]),
    ),
}


# ---- the continuity equation ---------------------------------------------------------------------


def weak_form(n):
    """d/dt int phi rho = int rho v . grad phi, integrated over time by Simpson's rule, for a bank
    of phi.
    """
    mesh = Mesh.rectangle((0, 0), (1, 1), (n, n))
    t = np.linspace(0, 0.5, 21)
    rho = ContinuityEquation(mesh, stream=swirl).solve(mesh.density(blob((0.5, 0.75))), t).rho
    simpson = np.array([1, *[4, 2] * 9, 4, 1]) * (t[1] - t[0]) / 3
    worst = 0.0
    for phi, slope in BANK.values():
        change = mesh.integrate(mesh.average(phi) * (rho[-1] - rho[0]))
        work = mesh.average(lambda x, slope=slope: (velocity(x) * slope(x)).sum(axis=0))
        worst = max(worst, abs(change - simpson @ mesh.integrate(work * rho)))
    yield (
        "weak form: d/dt int phi rho = int rho v.grad phi",
        "in the sense of measures",
        "ContinuityEquation, itself",
        worst,
        1.5 / n**2,
    )


def push_forward(n):
    """rho(t) = T_t # rho0; and int phi rho(t) = int (phi o T_t) rho0 by the adjoint."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (n, n))
    equation, rho0, T = ContinuityEquation(mesh, stream=swirl), mesh.density(blob((0.5, 0.75))), 0.5
    rho = equation.solve(rho0, T).rho[-1]
    x, mass = mesh.to_points(rho0, 4)
    moved = particles.push_forward(x, velocity, T, rtol=1e-6)[-1]
    apart = [
        abs(mesh.integrate(mesh.average(phi) * rho) - phi(moved) @ mass) for phi, _ in BANK.values()
    ]
    yield (
        "push-forward: int phi rho(t) = int (phi o T) rho0",
        "representation by flows",
        "ContinuityEquation, push_forward",
        max(apart),
        6 / n**2,
    )

    linear = ContinuityEquation(mesh, stream=swirl, flux=fvot.upwind)
    phi = mesh.average(BANK["cos"][0])
    end = linear.solve(rho0, T).rho[-1]
    start = linear.adjoint(phi, T)
    yield (
        "uniqueness by duality: int phi rho(T) = int phi* rho0",
        "Holmgren 1901",
        "ContinuityEquation, adjoint",
        abs(mesh.integrate(phi * end - start * rho0)),
        1e-12,
    )

    mass = mesh.integrate(mesh.average(blob((0.5, 0.75))))
    found = mesh.gather(rho)
    dense = np.argsort(found)[-n:]
    begin = particles.push_forward(mesh.gather(mesh.centroid)[:, dense], lambda x: -velocity(x), T)[
        -1
    ]  # back in time
    density = particles.density_along_flow(
        begin, lambda x: blob((0.5, 0.75))(x) / mass, velocity, T
    )[1][-1]
    yield (
        "density along the flow: rho0 / det J",
        "Liouville 1838",
        "density_along_flow, ContinuityEquation",
        np.abs(found[dense] / density - 1).mean(),
        60 / n**2,
    )


def law(n):
    """dX = b dt + sqrt(2 D) dW has the density of the Fokker-Planck equation: moments, in standard
    deviations of the noise.
    """
    mesh, D, count = Mesh.rectangle((-2, -2), (2, 2), (2 * n, 2 * n)), 0.3, 20_000

    def b(x):
        return np.stack([-x[0] - x[1], x[0] - x[1]])

    rho0 = mesh.density(blob((0.8, 0.0), 0.2))
    rho = FokkerPlanck(mesh, diffusion=D, drift=b).solve(rho0, 0.7).rho[-1]
    x0, mass = mesh.to_points(rho0)
    x0 = x0[:, np.random.default_rng(2).choice(len(mass), count, p=mass / mass.sum())]
    x = particles.langevin(x0, b, D, 0.7, 3, tau=0.01, order=2, walls=((-2, -2), (2, 2)))[-1]
    off = []
    for f in (
        lambda x: x[0],
        lambda x: x[1],
        lambda x: x[0] ** 2,
        lambda x: x[0] * x[1],
        lambda x: (x[1] > 0.2) * 1.0,
    ):
        values = f(x)
        off.append(
            abs(values.mean() - mesh.integrate(mesh.average(f) * rho))
            / (values.std() / np.sqrt(count))
        )
    yield (
        "law of dX = b dt + sqrt(2D) dW, in deviations of the noise",
        "Kolmogorov 1931",
        "langevin, FokkerPlanck",
        max(off),
        4.0,
    )


# ---- optimal transport ---------------------------------------------------------------------------


def on_a_line(n):
    """Dynamical transport against quantiles, which are exact."""
    mesh = Mesh.interval(0, 1, 4 * n)
    rho0, rho1 = (
        mesh.density(blob(0.3, 0.08)),
        mesh.density(lambda x: blob(0.6, 0.05)(x) + blob(0.8, 0.05)(x)),
    )
    path = BenamouBrenier(mesh, n_steps=32, tol=1e-3, max_iter=10_000).solve(rho0, rho1)
    edges = np.linspace(0, 1, 4 * n + 1)

    def W(one, other):
        return static.wasserstein_1d(edges, mesh.gather(one), edges, mesh.gather(other))

    exact = W(rho0, rho1)
    yield (
        "W2^2 dynamic = static, on a line",
        "Benamou, Brenier 2000",
        "BenamouBrenier, wasserstein_1d",
        abs(path.cost / exact**2 - 1),
        0.4 / n,
    )
    yield (
        "constant speed: |v| = W2 at all inner nodes",
        "Benamou, Brenier 2000",
        "BenamouBrenier, wasserstein_1d",
        np.abs(path.speed[1:-1] / exact - 1).max(),
        0.8 / n,
    )
    times = [(0, 9), (9, 25), (0, 33), (17, 33)]
    yield (
        "geodesic: W2(rho_s, rho_t) = |s - t| W2",
        "McCann 1997",
        "BenamouBrenier, wasserstein_1d",
        max(abs(W(path.rho[i], path.rho[j]) / exact - (path.t[j] - path.t[i])) for i, j in times),
        0.3 / n,
    )
    whole = mesh.gather(rho0)
    T = static.monotone_map(
        edges, whole, edges, mesh.gather(rho1), at=mesh.gather(mesh.centroid[0])
    )
    found = mesh.gather(path.transport_map()[0])
    yield (
        "the map is F_nu^-1 o F_mu",
        "Frechet 1957",
        "BenamouBrenier, monotone_map",
        np.sqrt(whole @ (found - T) ** 2 / whole.sum()) / exact,
        1.5 / n,
    )
    yield (
        "the map is monotone, on a line",
        "Frechet 1957",
        "BenamouBrenier, itself",
        max(0.0, -np.diff(found[whole > 1.0]).min()),
        1e-3 / n,
    )


def in_the_plane(n):
    """Dynamical transport against the linear program of the cells' centroids, and against
    Sinkhorn's divergence.
    """
    n = min(n, 24)
    mesh = Mesh.rectangle((0, 0), (1, 1), (n, n))
    rho0, rho1, rho2 = (
        mesh.density(blob(place)) for place in ((0.3, 0.35), (0.65, 0.6), (0.4, 0.7))
    )
    solver = BenamouBrenier(mesh, n_steps=16, tol=1e-3)
    path = solver.solve(rho0, rho1)
    (x, a) = mesh.to_points(rho0)
    (y, b) = mesh.to_points(rho1)
    plan = static.kantorovich(x, a, y, b)
    yield (
        "W2^2 dynamic = static, in the plane",
        "Benamou, Brenier 2000",
        "BenamouBrenier, kantorovich",
        abs(path.cost / plan.cost - 1),
        0.6 / n,
    )
    far, near = (
        abs(static.sinkhorn(x, a, y, b, epsilon, tol=1e-4).divergence - plan.cost) / plan.cost
        for epsilon in (0.2, 0.05)
    )
    yield (
        "debiased Sinkhorn tends to W2^2: epsilon = 0.05",
        "Feydy et al. 2019",
        "sinkhorn, kantorovich",
        near,
        min(0.05, far),
    )
    middle = static.wasserstein(
        *static.displacement_interpolation(plan, 0.5), *mesh.to_points(path.at(0.5))
    )
    yield (
        "rho(1/2) is the displacement interpolation: W2 over W2",
        "McCann 1997",
        "BenamouBrenier, displacement",
        middle / plan.cost**0.5,
        2.0 / n,
    )
    T, dense = mesh.gather(path.transport_map()), np.argsort(mesh.gather(rho0))[-100:]
    X = mesh.gather(mesh.centroid)[:, dense]
    steps = ((T[:, dense, None] - T[:, None, dense]) * (X[:, :, None] - X[:, None])).sum(axis=0)
    yield (
        "the map is the gradient of a convex function: monotone",
        "Brenier 1991",
        "BenamouBrenier, itself",
        max(0.0, -steps.min()) / plan.cost,
        1e-3,
    )
    moved = particles.push_forward(x, path.velocity_at, 1.0, walls=mesh)[-1]
    yield (
        "rho1 is the push-forward of rho0: W2 over W2",
        "Benamou, Brenier 2000",
        "velocity_at, push_forward, kantorovich",
        static.wasserstein(moved, a, y, b) / plan.cost**0.5,
        3.0 / n,
    )
    yield (
        "Kantorovich's duality: int u mu + int v nu = cost",
        "Kantorovich 1942",
        "kantorovich, itself",
        abs(plan.u @ a + plan.v @ b - plan.cost) / plan.cost,
        1e-12,
    )
    phi = static_potential(mesh, path, plan, x, a)
    yield (
        "potentials are dual optimal: u = -2 phi(0) + const",
        "Brenier 1991",
        "BenamouBrenier, kantorovich",
        phi,
        2.0 / n,
    )
    back = solver.solve(rho1, rho0)
    yield (
        "symmetry of W2",
        "W2 is a metric",
        "BenamouBrenier, itself",
        abs(back.cost - path.cost) / path.cost,
        2 * solver.tol,
    )
    other = solver.solve(rho1, rho2)
    third = solver.solve(rho0, rho2)
    yield (
        "triangle inequality of W2, excess",
        "W2 is a metric",
        "BenamouBrenier, itself",
        max(0.0, third.lower_bound**0.5 - path.cost**0.5 - other.cost**0.5),
        0.0,
    )


def static_potential(mesh, path, plan, x, a):
    """How far u and -2 phi(0) are apart, in L2 of mu and relative."""
    cell = mesh.locate(x)
    phi = mesh.ranks.sum(np.where(cell >= 0, path.phi[0][cell], 0.0))
    u = plan.u - plan.u @ a / a.sum()
    apart = u + 2 * (phi - phi @ a / a.sum())
    return np.sqrt((apart**2) @ a / ((u**2) @ a))


def on_any_mesh(n):
    """W2^2 on meshes whose faces are not orthogonal to the lines between cell points, or whose cell
    points coincide. Half the cell size must halve the error, at least.
    """
    n = min(n, 24)
    ends = blob((0.3, 0.35)), blob((0.65, 0.6))
    for name, make in {
        "right triangles": right_triangles,
        "moved quadrilaterals": moved_quadrilaterals,
    }.items():
        coarse, fine = (linear_program_error(make(cells), ends) for cells in (n // 2, n))
        yield (
            f"W2^2 dynamic = static, on {name}",
            "Benamou, Brenier 2000",
            "BenamouBrenier, kantorovich",
            fine,
            min(0.6 / n, coarse / 2),
        )

    coarse, fine = (quantile_error(cubes_in_six(cells)) for cells in (4, 8))
    yield (
        "W2^2 dynamic = static, on tetrahedra cut from cubes",
        "Benamou, Brenier 2000",
        "BenamouBrenier, wasserstein_1d",
        fine,
        min(0.6 / 8, coarse / 2),
    )


def linear_program_error(mesh, ends):
    """How far W2^2 is from that of the linear program of the centroids."""
    rho0, rho1 = (mesh.density(end) for end in ends)
    path = BenamouBrenier(mesh, n_steps=16, tol=1e-3).solve(rho0, rho1)
    plan = static.kantorovich(*mesh.to_points(rho0), *mesh.to_points(rho1))
    return abs(path.cost / plan.cost - 1)


def quantile_error(mesh, start=(0.3, 0.35, 0.4), end=(0.65, 0.6, 0.55), width=0.3):
    """How far W2^2 between products of blobs along the axes is from the sum of those along them."""

    def product(place):
        return mesh.density(
            lambda x: np.prod([blob(c, width)(x_i[None]) for c, x_i in zip(place, x)], axis=0)
        )

    line = Mesh.interval(0, 1, 1000)
    edges = np.linspace(0, 1, 1001)
    exact = 0.0
    for c0, c1 in zip(start, end):
        rho0, rho1 = (line.gather(line.density(blob(c, width))) for c in (c0, c1))
        exact += static.wasserstein_1d(edges, rho0, edges, rho1) ** 2
    path = BenamouBrenier(mesh, n_steps=8, tol=1e-3).solve(product(start), product(end))
    return abs(path.cost / exact - 1)


def grid(n):
    """The points (2, (n + 1)^2) of a grid of the unit square, and its squares (n^2, 4)."""
    side = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(side, side, indexing="ij")).reshape(2, -1)
    k = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    cells = np.stack([k[:-1, :-1], k[1:, :-1], k[1:, 1:], k[:-1, 1:]], axis=-1)
    return points, cells.reshape(-1, 4)


def right_triangles(n):
    """Squares, each cut in two along the same diagonal."""
    points, cells = grid(n)
    triangles = np.concatenate([cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]])
    return Mesh.from_cells(points, [("triangle", triangles)])


def moved_quadrilaterals(n):
    """Squares whose inner points are moved at random, by up to a quarter of their size."""
    points, cells = grid(n)
    is_inner = ((points > 0) & (points < 1)).all(axis=0)
    shift = np.random.default_rng(1).uniform(-0.25, 0.25, points.shape) / n
    return Mesh.from_cells(points + is_inner * shift, [("quad", cells)])


def cubes_in_six(n):
    """Cubes, each cut in six tetrahedra: one for each way along three edges from corner to
    corner.
    """
    side = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(side, side, side, indexing="ij")).reshape(3, -1)
    k = np.arange((n + 1) ** 3).reshape(n + 1, n + 1, n + 1)
    steps = (n + 1) ** 2, n + 1, 1  # from a point to the next along x, y and z
    first = k[:-1, :-1, :-1].ravel()
    cells = [
        first[:, None] + np.cumsum([0, *(steps[axis] for axis in axes)])
        for axes in permutations(range(3))
    ]
    return Mesh.from_cells(points, [("tetra", np.concatenate(cells))])


def round_a_corner(n):
    """On the L, where mass must go around the corner: distances inside it, squared, are the static
    costs; those straight through the wall are five times as far off, at least.
    """
    mesh = fvot.example_mesh("l_shape")
    rho0, rho1 = mesh.density(blob((-0.5, -0.6), 0.15)), mesh.density(blob((0.6, 0.5), 0.15))
    path = BenamouBrenier(mesh, n_steps=16, tol=2e-3).solve(rho0, rho1)
    (x, a) = mesh.to_points(rho0)
    (y, b) = mesh.to_points(rho1)
    some, others = (np.sort(np.argsort(-w)[:600]) for w in (a, b))  # nearly all of the mass
    a, b = a[some] / a[some].sum(), b[others] / b[others].sum()
    inside = static.kantorovich(
        x[:, some], a, y[:, others], b, mesh.geodesic_distance(x[:, some], y[:, others]) ** 2
    )
    straight = static.kantorovich(x[:, some], a, y[:, others], b)
    yield (
        "W2^2 around a corner = Kantorovich with distances inside",
        "Benamou, Brenier 2000",
        "BenamouBrenier, geodesic_distance",
        abs(path.cost / inside.cost - 1),
        abs(straight.cost / inside.cost - 1) / 5,
    )


# ---- gradient flows ------------------------------------------------------------------------------


def steepest_descent(n):
    """JKO's Euler equation; the order of the scheme; the slope of the energy in Otto's metric."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (n, n))
    energy = 0.1 * Entropy() + Potential(lambda x: x[0] ** 2)
    rho0 = mesh.density(lambda x: 1 + 0.8 * np.cos(np.pi * x[0]))
    tau = 0.1
    path = BenamouBrenier(mesh, n_steps=8, tol=1e-4, terminal=tau * energy).solve(rho0)
    weight = path.rho[-1]
    gradient = otto.wasserstein_gradient(mesh, path.rho[-1], energy)
    euler = path.phi[-1] / tau + gradient
    spread = np.ptp(mesh.gather(gradient))
    mean = mesh.integrate(weight * euler)
    yield (
        "JKO's Euler equation: phi / tau + E'(rho) = const",
        "Jordan et al. 1998",
        "BenamouBrenier, otto",
        np.sqrt(mesh.integrate(weight * (euler - mean) ** 2)) / spread,
        0.02,
    )

    slope = otto.norm(mesh, rho0, otto.wasserstein_gradient(mesh, rho0, energy)) ** 2
    ledger = JKO(mesh, energy).solve(rho0, 1e-4, tau=1e-4).ledger
    yield (
        "slope: dE/dt = -|grad E'|^2 in Otto's metric",
        "Otto 2001",
        "JKO, otto",
        abs((ledger["energy"][0] - ledger["energy"][1]) / 1e-4 / slope - 1),
        0.02,
    )

    exact = (
        FokkerPlanck(mesh, diffusion=0.1, potential=lambda x: x[0] ** 2, order=3)
        .solve(rho0, 0.2, tau=2.5e-3)
        .rho[-1]
    )
    for order in 1, 2:
        equation = JKO(mesh, energy, order=order)
        *coarse, fine = (
            equation.solve(rho0, 0.2, tau=0.2 / steps).rho[-1] for steps in (5, 10, 64)
        )
        errors = [mesh.integrate(np.abs(rho - fine)) for rho in coarse]
        yield (
            f"order {order} of JKO in tau: off by",
            "Ambrosio et al. 2008",
            "JKO, itself",
            abs(np.log2(errors[0] / errors[1]) - order),
            0.3,
        )
        yield (
            f"JKO of order {order} is the Fokker-Planck flow",
            "Jordan et al. 1998",
            "JKO, FokkerPlanck",
            mesh.integrate(np.abs(fine - exact)),
            0.5 / n if order == 1 else 3 / n**2,
        )
    porous = JKO(mesh, Power(2), order=2).solve(rho0, [0, 0.01, 0.02], tau=0.005).ledger
    yield (
        "energy that is lost = energy that is dissipated",
        "Gonzalez 1996",
        "JKO, itself",
        np.abs(porous["energy"] + porous["dissipated"] - porous["energy"][0]).max()
        / porous["energy"][0],
        1e-11,
    )


def past_and_future(n):
    """Functions that are carried backwards, committors, and bridges between two densities."""
    mesh, D = Mesh.interval(-1, 1, 4 * n), 0.5
    x = mesh.center[0]

    def V(x):
        return np.cos(3 * x[0]) + x[0] ** 2

    ends = {"left": fvot.dirichlet(0.0), "right": fvot.dirichlet(0.0)}
    equation = FokkerPlanck(mesh, diffusion=D, potential=V, boundary=ends, order=1)
    rho0, f = mesh.density(blob([-0.3])), x**3
    rho = equation.solve(rho0, 0.2, tau=0.02).rho[-1]
    u = equation.backward(f, 0.2, tau=0.02).u[0]
    yield (
        "backward equation: int f rho(T) = int u(0) rho0",
        "Kolmogorov 1931",
        "FokkerPlanck, backward",
        abs(mesh.integrate(f * rho - u * rho0)),
        1e-12,
    )

    fine = np.linspace(-1, 1, 40 * n + 1)
    slopes = np.exp(V(fine[None]) / D)
    below = np.append(0.0, np.cumsum(slopes[1:] + slopes[:-1]))  # by trapezoids
    q = equation.committor("left", "right")
    yield (
        "committor = int e^(V/D) below / int e^(V/D)",
        "Onsager 1938",
        "committor, quadrature",
        mesh.ranks.max(np.abs(q - np.interp(x, fine, below / below[-1])).max(initial=0.0)),
        0.1 / n**2,
    )

    m, steps, noise = 24, 8, 0.1
    mesh = Mesh.interval(0, 1, m, comm=MPI.COMM_SELF)
    equation = FokkerPlanck(mesh, diffusion=noise / 2, order=1)
    rho0, rho1 = mesh.density(lambda x: 1 + x[0]), mesh.density(lambda x: 2 - x[0])
    bridge = SchroedingerBridge(equation, n_steps=steps, tol=1e-12).solve(rho0, rho1)
    step = np.linalg.inv(np.eye(m) - equation.generator().toarray() / steps)
    P = np.linalg.matrix_power(step, steps)  # of probabilities
    x, a, b = mesh.center, mesh.volume * rho0, mesh.volume * rho1
    plan = static.sinkhorn(x, a, x, b, 1.0, -np.log(P / mesh.volume), tol=1e-12, debias=False)
    KL = np.sum(plan.matrix * np.log(plan.matrix / (mesh.volume[:, None] * P)))
    yield (
        "bridge = Sinkhorn's plan of log transition densities",
        "Schroedinger 1931",
        "SchroedingerBridge, static",
        abs(bridge.cost / (noise * KL) - 1),
        1e-9,
    )


WITNESSES = (
    weak_form,
    push_forward,
    law,
    on_a_line,
    in_the_plane,
    on_any_mesh,
    round_a_corner,
    steepest_descent,
    past_and_future,
)


def main(n=32):
    """Measure all identities on meshes with n cells along a side, at least 24, and print the
    table.
    """
    if n < 24:
        raise fvot.InputError(
            f"n must be at least 24, not {n}: on coarser meshes orders are not seen yet"
        )
    fvot.say(f"{'identity':60} {'theorem':24} {'between':42} {'apart':>8} {'allowed':>8}")
    found = {}
    for witness in WITNESSES:
        for what, theorem, between, apart, allowed in witness(n):
            fvot.say(
                f"{what:60} {theorem:24} {between:42} {apart:8.1e} "
                f"{allowed:8.1e}{'' if apart <= allowed else '   FAILS'}"
            )
            found[what] = int(apart <= allowed)
    fvot.say(f"{sum(found.values())} of {len(found)} hold")
    return found


if __name__ == "__main__":
    fvot.run(main)
