"""Values that are computed from a mesh at the first call, and then kept with it."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias, TypeVar

# A `Mesh`: modules that it is built from take one, but cannot import it.
AnyMesh: TypeAlias = Any

Value = TypeVar("Value")


def kept_with_mesh(compute: Callable[[AnyMesh], Value]) -> Callable[[AnyMesh], Value]:
    """The function compute(mesh), which from the second call on returns the value of the first.

    The mesh keeps the value under a private name, so that both are freed, copied and pickled
    together.
    """
    name = f"_{compute.__module__}.{compute.__qualname__}"

    @wraps(compute)
    def look_up(mesh: AnyMesh) -> Value:
        memory = mesh.__dict__
        if name not in memory:
            memory[name] = compute(mesh)
        return memory[name]

    return look_up
