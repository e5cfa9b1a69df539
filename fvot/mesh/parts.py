"""Parts of a mesh by name: `mesh.boundary`, `mesh.interfaces`, `mesh.regions`."""
from ..errors import InputError


class Parts(dict):
    """{name: faces or cells}. A group of a file that has no name has its number, which may be written as text, too.

    `InputError`, with the names that there are, for one that there is not.
    """

    def __init__(self, parts, what):
        super().__init__(parts)
        self.what = what

    def __missing__(self, name):
        other = _other(name)
        if other in self.keys():
            return self[other]
        raise InputError(f"the mesh has no {self.what} {name!r}; it has: {', '.join(map(str, self)) or 'none'}")

    def __contains__(self, name):
        return super().__contains__(name) or super().__contains__(_other(name))


def _other(name):
    """The number of its digits, or the digits of a number."""
    if isinstance(name, str):
        return int(name) if name.isdecimal() else name
    return str(name)
