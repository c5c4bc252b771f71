"""The documentation: pages in Markdown, the API from docstrings, the command line from its parser. Built offline."""

project = "eds_chunked"
author = "The eds_chunked maintainers"
copyright = "The eds_chunked maintainers, GPL-3.0-or-later"
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx_click"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
exclude_patterns = ["_build"]
smartquotes = False  # --memory has two hyphens
html_theme = "furo"
html_title = "eds_chunked"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
