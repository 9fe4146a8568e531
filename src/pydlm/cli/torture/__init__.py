"""`pydlm torture`: many nodes count up in one lock value block, and check every value they read."""

from pydlm.cli.torture.command import torture

__all__ = ["torture"]
