"""Parts of a mesh by name: `mesh.boundary`, `mesh.interfaces`, `mesh.regions`."""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError


class Name(str):
    """The name of a group that has numbers in its file, too; either finds the group."""

    numbers: tuple[int, ...] = ()


class Parts(dict):
    """{name: faces or cells}; a group without a name has its number, which may be written as text.

    A name that is not there is an `InputError` that lists those that are.

    hint : what the message about such a name ends with
    """

    def __init__(self, parts: Mapping, what: str, sets: Any = None):
        """what : the word for a part in messages; sets : {name: numbers of its sets}."""
        super().__init__(parts)
        self.what = what
        self._sets = sets
        self.hint = ""

    def __missing__(self, name):
        return self[self._key(name)]

    def __contains__(self, name):
        return self._find(name) is not None

    def sets_of(self, name: Any) -> tuple[int, ...]:
        """Numbers of the sets that make a part up, the same on all ranks: those of all faces with
        the same names.
        """
        return self._sets[self._key(name)]

    def _key(self, name):
        key = self._find(name)
        if key is None:
            raise InputError(
                f"the mesh has no {self.what} {name!r}; it has: "
                f"{', '.join(map(str, self)) or 'none'}{self.hint}"
            )
        return key

    def _find(self, name):
        """The key that a name stands for, or None: itself, its digits as a number, or the group of
        that number.
        """
        if name in self.keys():
            return name
        number = int(name) if isinstance(name, str) and name.isdecimal() else name
        if number in self.keys():
            return number
        return next((key for key in self if isinstance(key, Name) and number in key.numbers), None)
