"""Which stack a program runs on is chosen here, and nowhere else."""

from pydlm.stackglue.registry import (
    DEFAULT_STACK,
    STACK_VARIABLE,
    connect_stack,
    find_stack,
    stack_connector,
    stack_names,
)

__all__ = [
    "DEFAULT_STACK",
    "STACK_VARIABLE",
    "connect_stack",
    "find_stack",
    "stack_connector",
    "stack_names",
]
