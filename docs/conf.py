"""Sphinx: `make docs` builds the pages in this folder, with the docstrings of the package, into
docs/_build/html.
"""

import re

import fvot  # noqa: F401  what the docstrings are taken from

project = "fvot"
author = "The fvot developers"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "fvot"
html_static_path = []
html_show_copyright = False
exclude_patterns = ["_build"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
nitpicky = False

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


def setup(app):
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", escape_symbols, priority=400)
