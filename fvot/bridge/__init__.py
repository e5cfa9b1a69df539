"""Schroedinger bridges: the most likely motion between densities, as a `Bridge`."""

from .bridge import Bridge
from .solver import SchroedingerBridge

__all__ = ["Bridge", "SchroedingerBridge"]
