"""A genetic toggle switch: two genes that repress each other, and how long noise takes to switch
them, by a density and by the master equation of the molecules.

    python demos/toggle_switch.py
    mpirun -n 2 python demos/toggle_switch.py --volume 50 --hill 2.5

Proteins x and y are made at the rates f(y) and f(x), f(z) = a / (1 + z^h), and decay at the rate 1
(Gardner, Cantor, Collins, Nature 403, 2000). With some hundred molecules, concentrations times the
volume Omega, this is noisy. The chemical Langevin equation (Gillespie 2000) in Ito's sense is

    dx = (f(y) - x) dt + sqrt((f(y) + x) / Omega) dW,    dy = (f(x) - y) dt + sqrt(...) dW';

its drift is no gradient: there is no potential, probability goes round in the stationary state, and
the way from one state to the other is not the way back. The table compares the mean time to switch
with that of the master equation, the Markov chain of the numbers of molecules. Writes the fields
for ParaView and a picture.
"""

from pathlib import Path

import numpy as np
from scipy import sparse

import fvot
from fvot import markov

RADIUS = 0.4  # of the discs A and B around the stable states
VOLUMES = 5, 10, 20, 40  # of the table


def made_at(a, h):
    """f: the rate at which a protein is made, at a concentration of the other one."""
    return lambda z: a / (1 + z**h)


def find_state(f):
    """The stable state (2,) with much of x and little of y."""
    x, y = f(0.0), 0.0
    for _ in range(10_000):
        x, y = f(y), f(x)
    return np.array([x, y])


def near(state):
    """Whether points x (2, n) are near a state."""
    return lambda x: np.hypot(*(x - state[:, None])) < RADIUS


def langevin(mesh, f, volume):
    """The equation of the density of the chemical Langevin equation."""
    return fvot.FokkerPlanck(
        mesh,
        drift=lambda x: f(x[::-1]) - x,
        diffusion=lambda x: (f(x[::-1]) + x) / (2 * volume),
        noise="ito",
        scheme="two_point",
    )


def time_by_langevin(mesh, f, volume, on):
    """The mean time from a state (2,) to its mirror image."""
    T = langevin(mesh, f, volume).mean_first_passage_time(near(on[::-1]))
    return mesh.integrate(mesh.deposit(on[:, None], [1.0]) * T)


def time_by_molecules(side, f, volume, on):
    """The same by the master equation, of at most side * volume molecules of each protein."""
    number = np.arange(round(side * volume))
    birth = sparse.diags(volume * f(number / volume))
    up = sparse.eye(len(number), k=1)
    down = sparse.diags(number[1:].astype(float), -1)
    one = sparse.eye(len(number))
    rates = (
        sparse.kron(up, birth)  # a molecule of x more,
        + sparse.kron(down, one)  # or less,
        + sparse.kron(birth, up)  # of y more,
        + sparse.kron(one, down)  # or less
    )
    x = np.stack(np.meshgrid(number, number, indexing="ij")).reshape(2, -1) / volume
    T = markov.passage_times(rates, np.flatnonzero(near(on[::-1])(x)), center=x)[0]
    return T[np.hypot(*(x - on[:, None])).argmin()]


def main(n=100, production=2.0, hill=3.0, volume=30.0, pictures=True, out="out/toggle_switch"):
    """Follow the switching of two genes that repress each other.

    n: cells along a side; production: a, of a gene that is not repressed; hill: h, how sharply the
    other one represses it; volume: molecules per unit of concentration; out: folder for what is
    written.
    """
    if min(production, hill) <= 0:
        raise fvot.InputError(
            f"production and hill must be above 0, not {production:g} and {hill:g}"
        )
    f = made_at(production, hill)
    on = find_state(f)
    if n < 4 or n % 2 or volume <= 0 or not on[0] - on[1] > 2 * RADIUS:
        raise fvot.InputError(
            f"this takes an even n >= 4, volume > 0 and two states (production from 1.4 on for "
            f"hill 3, from 2.2 on for hill 2), not n = {n}, volume = {volume:g} and {on.round(3)}"
        )
    side = 2 * production
    mesh = fvot.Mesh.rectangle((0, 0), (side, side), (n, n))
    A = near(on)
    B = near(on[::-1])

    equation = langevin(mesh, f, volume)
    there = equation.transition_paths(A, B)
    back = equation.transition_paths(B, A)
    mode = equation.slow_modes(1)
    rho = equation.stationary()
    current = equation.current(rho)
    difference = mesh.integrate(np.hypot(*(there.current + back.current)))
    difference /= mesh.integrate(np.hypot(*there.current) + np.hypot(*back.current))
    T = mesh.integrate(mesh.deposit(on[:, None], [1.0]) * equation.mean_first_passage_time(B))

    fvot.say(
        f"{mesh.n_cells_global} cells on {mesh.ranks.size} ranks, states at {on.round(3)} and "
        f"{on[::-1].round(3)}: {on[0] * volume:.0f} molecules of one and {on[1] * volume:.0f} of "
        f"the other\n"
        f"mean time to switch     {T:.6f}\n"
        f"k_AB, k_BA              {there.k_AB:.9e}, {there.k_BA:.9e}\n"
        f"slowest mode            {mode.rates[0]:.9e}\n"
        f"under way               {mesh.integrate(there.density) / there.rate:.4f} each\n"
        f"difference of the ways  {difference:.3f}: 0 if the way back is the same, 1 if they do "
        f"not meet\n"
    )
    times = table(n, side, f, on)

    folder = Path(out).expanduser()
    fields = dict(
        density=rho,
        current=current,
        committor=there.committor,
        there=there.current,
        back=back.current,
        slowest_density=mode.left[0],
        slowest_function=mode.right[0],
    )
    mesh.write(folder / "toggle_switch.pvd", fields)
    if pictures:
        picture(folder / "toggle_switch.png", mesh, rho, current, there, back, on, times)
    fvot.say(f"\nParaView opens {folder / 'toggle_switch.pvd'}")
    return dict(
        time=T,
        k_AB=there.k_AB,
        k_BA=there.k_BA,
        slowest=mode.rates[0],
        difference=difference,
        **{f"langevin_{volume}": row[1] for volume, row in zip(VOLUMES, times)},
        **{f"molecules_{volume}": row[3] for volume, row in zip(VOLUMES, times)},
    )


def table(n, side, f, on):
    """Print and return mean times to switch (n_volumes, 4), by the density on two meshes,
    extrapolated from these, and by the master equation.
    """
    meshes = [fvot.Mesh.rectangle((0, 0), (side, side), (m, m)) for m in (n // 2, n)]
    fvot.say(
        f"{'volume':>6} {'molecules':>9} {f'{n // 2} x {n // 2}':>11} {f'{n} x {n}':>11} "
        f"{'extrapolated':>13} {'master equation':>16} {'ratio':>7}"
    )
    rows = []
    for volume in VOLUMES:
        coarse, fine = (time_by_langevin(mesh, f, volume, on) for mesh in meshes)
        limit = fine + (fine - coarse) / 3
        molecules = time_by_molecules(side, f, volume, on)
        fvot.say(
            f"{volume:6} {on[0] * volume:9.0f} {coarse:11.3f} {fine:11.3f} {limit:13.3f} "
            f"{molecules:16.3f} {limit / molecules:7.4f}"
        )
        rows.append((coarse, fine, limit, molecules))
    return np.array(rows)


# ---- the picture ---------------------------------------------------------------------------------

RED, BLUE, GREY = "#d1495b", "#4064b0", "0.35"
CORNERS = (0.065, 0.56), (0.065, 0.06), (0.575, 0.06)  # of the panels


def picture(path, mesh, rho, current, there, back, on, times):
    """The density, the paths there and back, each with its current, and times over volume."""
    from matplotlib.figure import Figure

    figure = Figure((10.5, 8.5))
    top, left, right = (figure.add_axes((*corner, 0.34, 0.4)) for corner in CORNERS)
    largest = mesh.ranks.max(rho.max())
    mesh.plot(
        rho,
        ax=top,
        label="density",
        log=True,
        clim=(1e-6 * largest, largest),
        arrows=root_of(current),
    )
    for axes, paths in (left, there), (right, back):
        density = paths.density / mesh.integrate(paths.density)
        mesh.plot(density, ax=axes, label="density", cmap="magma", arrows=root_of(paths.current))
    mesh.ranks.on_root(finish, path, figure, on, times)


def root_of(current):
    """Arrows as long as the root of a current, so that its weaker parts are seen, too."""
    return current / np.sqrt(np.maximum(np.hypot(*current), 1e-300))


def finish(path, figure, on, times):
    """Add names of the states and the times; write the picture."""
    badge = dict(boxstyle="circle,pad=0.25", facecolor="white", edgecolor=GREY, linewidth=0.8)
    side = 1.35 * on[0]
    titles = "stationary, and its current", "on the way from A to B", "on the way from B to A"
    for axes, title in zip(figure.axes, titles):
        for name, state in ("A", on), ("B", on[::-1]):
            axes.annotate(
                name, state, fontsize=12, fontweight="bold", ha="center", va="center", bbox=badge
            )
        axes.plot([0, side], [0, side], color="white", linewidth=0.8, linestyle=(0, (4, 4)))
        axes.set(xlim=(0, side), ylim=(0, side), xlabel="protein $x$", ylabel="protein $y$")
        axes.set_title(title, fontsize=12, color=GREY)
    draw_times(figure.add_axes((0.62, 0.575, 0.33, 0.37)), times)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def draw_times(axes, times):
    """Mean times to switch over the volume, both ways."""
    axes.semilogy(VOLUMES, times[:, 3], color=RED, linewidth=2, label="master equation")
    axes.semilogy(VOLUMES, times[:, 2], "o", color=BLUE, label="Langevin")
    axes.set(xlabel="volume $\\Omega$")
    axes.set_title("mean time to switch", fontsize=12, color=GREY)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    fvot.run(main)
