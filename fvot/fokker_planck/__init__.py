"""Fokker-Planck equations."""

from .equation import FokkerPlanck

__all__ = ["FokkerPlanck"]
