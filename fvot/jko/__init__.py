"""Wasserstein gradient flows."""

from .equation import JKO

__all__ = ["JKO"]
