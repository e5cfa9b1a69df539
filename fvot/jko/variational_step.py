"""The JKO step itself, min over rho of W2^2(rho, old) / (2 tau) + E(rho), by a transport solver
that is passed in, certified.

That is 1 / tau times min W2^2 / 2 + tau E: a path with a free end. E(old) - E(rho) >= W2^2(rho,
old) / (2 tau) but for the gap (Jordan, Kinderlehrer, Otto 1998).
"""

from .step import Step


class Proper:
    """rho after a step from old, (n_cells,) each, for a transport solver and an energy. Collective.

    iterations : of the transport solver, on the mesh itself
    gap : the largest certified gap of a step so far
    """

    order = 1

    def __init__(self, transport, energy):
        self.transport = transport
        self.energy = energy
        self._energy = transport.with_terminal(energy)
        self.restart()

    def restart(self):
        """Forget what went before."""
        self.iterations = 0
        self.gap = 0.0

    @property
    def memory(self):
        """What a checkpoint keeps."""
        return dict(iterations=self.iterations, gap=self.gap)

    @memory.setter
    def memory(self, kept):
        self.iterations = kept["iterations"]
        self.gap = kept["gap"]

    def __call__(self, old, tau):
        """The `Step` of length tau. Raises `ConvergenceError`."""
        path = self.transport.with_terminal(tau * self.energy).solve(old, progress=False)
        self.iterations, self.gap = self.iterations + path.iterations, max(self.gap, path.gap)
        return Step(path.rho[-1], (path.cost - 2 * path.energy) / (2 * tau), path.iterations)

    def parts(self, rho):
        """{"energy": E(rho)}, as the transport solver sees it."""
        return {"energy": self._energy.terminal_energy(rho)}
