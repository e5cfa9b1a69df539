"""The continuity equation."""

from .equation import ContinuityEquation

__all__ = ["ContinuityEquation"]
