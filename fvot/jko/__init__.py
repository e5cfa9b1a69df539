"""Wasserstein gradient flows."""
from .solver import JKO

__all__ = ["JKO"]
