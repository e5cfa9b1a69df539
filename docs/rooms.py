"""The rooms of the package and what each may import: one list for the test that checks it, the
table and the picture in developers/architecture.md, and the table of tuned numbers in
developers/numbers.md.

python docs/rooms.py writes all three.
"""

import ast
import re
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PACKAGE = DOCS.parent / "fvot"
PAGES = DOCS / "developers"

# A room imports only from rooms that stand before its own in this list.
ROOMS = {
    "kernel_cache": "where compiled kernels are kept",
    "errors": "what is raised, and how warnings name the user's own line",
    "parallel": "MPI: sums, maxima, shared failure, ghost exchange; the only file with mpi4py",
    "arguments": "checks of what a user gave: numbers, functions, times, steps, paths; types",
    "linalg": "linear systems, the cheapest method, graph partitions; the only file with petsc4py",
    "markov": "Markov chains: stationary weights and slow rates to full relative accuracy",
    "static": "optimal transport between point masses",
    "particles": "flows and noise, particle by particle",
    "output": "series for ParaView, pictures, movies",
    "mesh": "cells, faces, geometry; builders and files; quality; patches, levels, partition",
    "multigrid": "the package's own multigrid for implicit finite-volume steps",
    "finite_volume": "two-point fluxes, corners, boundary, exchange rates, gradients, steps",
    "energies": "free energies, and their values and derivatives on a mesh",
    "runs": "the one time loop, its records, checkpoints and results",
    "continuity": "the continuity equation",
    "fokker_planck": "the Fokker-Planck equation",
    "jko": "Wasserstein gradient flows",
    "benamou_brenier": "dynamical optimal transport",
    "bridge": "Schroedinger bridges: the most likely motion between densities",
    "otto": "Otto's Riemannian geometry of densities",
    "program": "a function as a program, its end on all ranks, versions; the only reader of "
    "sys.argv",
    "__init__": "the public names: the only door for users",
}

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# Sizes in the picture, in pixels.
WIDTH, HEIGHT, GAP, RISE = 118, 34, 12, 44


@cache
def parse(path):
    """(the text, the syntax tree) of a file of the package."""
    text = (PACKAGE / path).read_text()
    return text, ast.parse(text)


@cache
def imports(path):
    """The modules that a file of the package imports, as tuples of names; those of the package
    begin with "fvot" and the room.
    """
    here = ("fvot", *path.parent.parts)
    modules = []
    _, tree = parse(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = base + tuple(node.module.split(".")) if node.module else base
            modules += [(*module, alias.name) for alias in node.names]
    return modules


def room(path):
    """The room of a file of the package."""
    return path.parts[0].removesuffix(".py")


def arrows():
    """{room: rooms that it imports}."""
    found = {name: set() for name in ROOMS}
    for path in FILES:
        for package, *names in imports(path):
            if package == "fvot" and names and names[0] in ROOMS and names[0] != room(path):
                found[room(path)].add(names[0])
    return found


def floors(needs):
    """{room: its floor}: 0 for rooms that import none, else one above the highest that it
    imports.
    """
    level = {}
    for name in ROOMS:
        level[name] = 1 + max((level[other] for other in needs[name]), default=-1)
    return level


def direct(needs):
    """The arrows without those that a longer way implies."""
    reach = {}
    for name in ROOMS:
        reach[name] = set(needs[name]).union(*(reach[other] for other in needs[name]))
    return {
        name: {other for other in needs[name] if not any(other in reach[k] for k in needs[name])}
        for name in ROOMS
    }


def table():
    """The rooms as a table in Markdown."""
    lines = ["| room | what is in it |", "|---|---|"]
    for name, text in ROOMS.items():
        place = f"`{name}/`" if (PACKAGE / name).is_dir() else f"`{name}.py`"
        lines.append(f"| {place} | {text} |")
    return "\n".join(lines)


def picture():
    """The rooms as floors of a house, an SVG; what a longer way implies has no arrow."""
    needs = {name: others for name, others in arrows().items() if name != "__init__"}
    needs["__init__"] = set()
    level = {name: floor for name, floor in floors(needs).items() if name != "__init__"}
    stories = [
        [name for name in level if level[name] == floor] for floor in range(max(level.values()) + 1)
    ]
    widest = max(map(len, stories))
    size = widest * (WIDTH + GAP) + GAP, len(stories) * (HEIGHT + RISE)

    place = {}
    for floor, names in enumerate(stories):
        left = (size[0] - len(names) * (WIDTH + GAP) + GAP) / 2
        for i, name in enumerate(names):
            place[name] = (
                left + i * (WIDTH + GAP),
                size[1] - (floor + 1) * (HEIGHT + RISE) + RISE / 2,
            )

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
        f'viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif" font-size="13">',
        f'<rect width="{size[0]}" height="{size[1]}" fill="white"/>',
    ]
    for name, others in direct(needs).items():
        for other in sorted(others - {"__init__"}):
            (x, y), (u, v) = place[name], place[other]
            out.append(
                f'<path d="M {x + WIDTH / 2:.0f} {y + HEIGHT:.0f} C {x + WIDTH / 2:.0f} '
                f"{y + HEIGHT + RISE / 2:.0f}, {u + WIDTH / 2:.0f} {v - RISE / 2:.0f}, "
                f'{u + WIDTH / 2:.0f} {v:.0f}" fill="none" stroke="#8aa0b4" stroke-width="1.2"/>'
            )
    for name, (x, y) in place.items():
        out.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="5" '
            f'fill="#eef3f8" stroke="#4a6785"/>'
        )
        out.append(
            f'<text x="{x + WIDTH / 2:.0f}" y="{y + HEIGHT / 2 + 5:.0f}" text-anchor="middle" '
            f'fill="#1d2b3a">{name}</text>'
        )
    return "\n".join([*out, "</svg>\n"])


def definitions(path):
    """(name, node) of each upper-case name to which a file gives a value, annotated or not."""
    _, tree = parse(path)
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id.isupper() and node.value is not None:
            yield target.id, node


def constants(path):
    """(name, value, comment) of each upper-case number of a file: the comment above it, or beside
    it.
    """
    text, _ = parse(path)
    lines = text.splitlines()
    for name, node in definitions(path):
        if not any(
            isinstance(part, ast.Constant) and isinstance(part.value, (int, float))
            for part in ast.walk(node.value)
        ):
            continue
        beside = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip()
        above = []
        row = node.lineno - 2
        while row >= 0 and re.match(
            r"[A-Z_]+(: [^=]+)? =", lines[row]
        ):  # a group shares its comment
            row -= 1
        while row >= 0 and lines[row].startswith("#") and not lines[row].startswith("# ----"):
            above.insert(0, lines[row].lstrip("# "))
            row -= 1
        comment = " ".join(above) or beside.lstrip("# ")
        yield name, ast.unparse(node.value), comment


def numbers():
    """The tuned numbers of the package as tables in Markdown, a table a room."""
    out = []
    for name in ROOMS:
        rows = [
            (path.stem, *row)
            for path in FILES
            if room(path) == name
            for row in constants(path)
            if row[2]
        ]
        if rows:
            out += [f"## {name}", "", "| file | name | value | what it is |", "|---|---|---|---|"]
            out += [
                f"| {file} | `{constant}` | `{_short(value)}` | {_cell(comment)} |"
                for file, constant, value, comment in rows
            ]
            out.append("")
    return "\n".join(out).rstrip()


def _short(value):
    value = value.replace("|", "\\|")
    return value if len(value) <= 40 else value[:37] + "..."


def _cell(comment):
    return comment.replace("|", "\\|").replace("<", "&lt;")


def insert(page, name, text):
    """The page with the text between its marks <!-- name --> and <!-- end of name -->."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"no place for {name}")
    return pattern.sub(lambda match: f"{begin}\n{text}\n\n{end}", page)


@cache
def generated():
    """{path: text} of all that this file writes."""
    architecture = PAGES / "architecture.md"
    values = PAGES / "numbers.md"
    return {
        architecture: insert(architecture.read_text(), "rooms", table()),
        values: insert(values.read_text(), "numbers", numbers()),
        PAGES / "rooms.svg": picture(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
