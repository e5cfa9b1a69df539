"""Sphinx: `make docs` builds the pages in this folder, with the docstrings of the package, into
docs/_build/html.
"""

import inspect
import re
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes

import fvot  # noqa: F401  what the docstrings are taken from

project = "fvot"
author = "The fvot developers"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "fvot"
html_show_copyright = False
exclude_patterns = ["_build"]
default_role = "code"
nitpicky = False

# Formulas are drawn in the browser by the one file of MathJax that needs no fonts, out of a package
# with all of its files. Its menu would load more from elsewhere.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"scale": 0.9}}
html_static_path = [str(MATHJAX / mathjax_path), "site.css"]
html_css_files = ["site.css"]

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc has the types, in words
autosummary_generate = False
maximum_signature_line_length = 76
toc_object_entries_show_parents = "hide"
napoleon_attr_annotations = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_google_docstring = False
napoleon_use_rtype = False

BARS = re.compile(r"\|")
HANGING = re.compile(r"(\w)_(?=[\s.,;:)]|$)")  # a word_ at its end is no link


def escape_symbols(app, what, name, obj, options, lines):
    """|K| is no substitution and x_ no link; code and literal blocks stay as they are."""
    literal = None
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is None and not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`+[^`]*`+)", line)
            parts[::2] = [HANGING.sub(r"\1\\_", BARS.sub(r"\|", part)) for part in parts[::2]]
            lines[i] = "".join(parts)
        if literal is None and line.rstrip().endswith("::"):
            literal = indent


def list_members(app, what, name, obj, options, lines):
    """A table of the methods and properties of a class, after the text of its docstring."""
    if what != "class" or not options.members:
        return
    rows = [
        f"   ~{obj.__name__}.{member}"
        for each in reversed(obj.__mro__[:-1] if options.inherited_members else [obj])
        for member, value in vars(each).items()
        if not member.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, (property, cached_property)))
    ]
    if rows:
        end = next((i for i, line in enumerate(lines) if line.startswith((":", ".. "))), len(lines))
        table = [".. autosummary::", "   :nosignatures:", "", *dict.fromkeys(rows)]
        lines[end:end] = ["", *table, ""]


NUMBERS = re.compile(r"[-\d.,e% ]+")


def mark_numbers(app, doctree):
    """A browser would break 3e-4 at its sign: site.css keeps cells of numbers on one line."""
    for cell in doctree.findall(nodes.entry):
        if NUMBERS.fullmatch(cell.astext()):
            cell["classes"].append("numbers")


def setup(app):
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", escape_symbols, priority=400)
    app.connect("autodoc-process-docstring", list_members, priority=600)
    app.connect("doctree-read", mark_numbers)
