"""Sphinx: `make docs` builds the pages in this folder, with the docstrings of the package, into
docs/_build/html.
"""

import re

import fvot  # noqa: F401  what the docstrings are taken from

project = "fvot"
author = "The fvot developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "fvot"
html_static_path = []
html_show_copyright = False
exclude_patterns = ["_build"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
nitpicky = False

HANGING = re.compile(r"(\w)_(?=[\s.,;:)]|$)")  # a word_ at its end is no link
ARGUMENT = re.compile(r"^([A-Za-z_][\w ,().*+-]*?) : (.*)$")


def as_definitions(app, what, name, obj, options, lines):
    """`name : what it is` in a docstring is a definition; |K| is no substitution; formulas that
    stand in are literal.
    """
    made = []
    begun = False
    for line in lines:
        argument = ARGUMENT.match(line)
        text = HANGING.sub(r"\1\_", line.replace("|", r"\|"))
        if argument:
            if not begun and made and made[-1]:
                made.append("")
            made += [
                f"``{argument[1]}``",
                "    " + HANGING.sub(r"\1\_", argument[2].replace("|", r"\|")),
            ]
            begun = True
        elif line.startswith("    ") and not begun:
            if made and made[-1] and not made[-1].startswith("    "):
                made.append("")
            if not (made and made[-1].startswith("    ")):
                made += ["::", ""]
            made.append(line)
        elif line.startswith("    "):
            made.append("    " + text.strip())
        else:
            if made and made[-1].startswith("    ") and line:
                made.append("")
            begun = False
            made.append(text)
    lines[:] = made


def setup(app):
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", as_definitions)
