"""Parts of a mesh by name: `mesh.boundary`, `mesh.interfaces`, `mesh.regions`."""

from ..errors import InputError


class Name(str):
    """The name of a group that has numbers in its file, too: they find it as well."""

    numbers = ()


class Parts(dict):
    """{name: faces or cells}; a group without a name has its number. Numbers may be written as
    text.

    `InputError`, with the names that there are, for one that there is not.
    """

    def __init__(self, parts, what, sets=None):
        super().__init__(parts)
        self.what = what
        self._sets = sets

    def __missing__(self, name):
        return self[self._known(name)]

    def __contains__(self, name):
        return self._found(name) is not None

    def sets_of(self, name):
        """Numbers of the sets that make a part up, the same on all ranks: those of all faces with
        the same names.
        """
        return self._sets[self._known(name)]

    def _known(self, name):
        found = self._found(name)
        if found is None:
            raise InputError(
                f"the mesh has no {self.what} {name!r}; it has: "
                f"{', '.join(map(str, self)) or 'none'}"
            )
        return found

    def _found(self, name):
        """The key that a name stands for, or None: itself, its digits as a number, or the group of
        that number.
        """
        if name in self.keys():
            return name
        number = int(name) if isinstance(name, str) and name.isdecimal() else name
        if number in self.keys():
            return number
        return next((key for key in self if isinstance(key, Name) and number in key.numbers), None)
