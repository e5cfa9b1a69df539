"""What fvot raises. A returned result is a good one; every other case raises, on every rank."""


class InputError(ValueError):
    """The input cannot be used; the message names the thing, its value and the remedy."""


class MeshError(InputError):
    """The mesh is broken, or not admissible for two-point fluxes."""


class ConvergenceError(RuntimeError):
    """A solver stopped short of its tolerance; ``result`` holds what it had reached (or None)."""

    def __init__(self, message, result=None):
        super().__init__(message)
        self.result = result
