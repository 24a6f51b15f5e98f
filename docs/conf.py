"""How Sphinx makes the site of the pages in this folder; `scripts/docs` runs it. Nothing is fetched from anywhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the reference is that of this checkout, whatever is installed

import mpengine  # noqa: E402

project = "mpengine"
author = "The mpengine authors"
project_copyright = author
version = release = mpengine.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
root_doc = "index"
highlight_language = "none"

# ---- Markdown

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# ---- the reference, from docstrings

default_role = "py:obj"  # `name` in a docstring: a link where there is such a thing, else code
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_type_aliases = {"Observer": "mpengine.observing.Observer", "Rung": "str"}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"

# Every type of ours that a signature names must be in the reference; those of others are not here to be linked, and
# what stands in backticks in a docstring may be an option or a value.
nitpicky = True
suppress_warnings = ["ref.python"]  # such a value has the name of more than one thing: `cancelled`
nitpick_ignore_regex = [("py:obj", ".*"), ("py:.*", r"(?!mpengine\b).*"), ("py:class", r"mpengine\..*\.T")]

# ---- the pages

html_theme = "furo"
html_title = f"mpengine {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
copybutton_exclude = ".linenos, .gp, .go"


def at_its_public_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Links to a name of ours by the name its users know: annotations name the module in which it is defined."""
    target = str(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or not target.startswith("mpengine."):
        return None
    name = target.rpartition(".")[2]
    home = f"mpengine.{name}" if name in mpengine.__all__ else target
    return env.domains["py"].resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, content)


def setup(app: Any) -> None:
    app.connect("missing-reference", at_its_public_name)
