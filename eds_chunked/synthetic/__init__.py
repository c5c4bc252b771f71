"""Synthetic rocks: maps of any size with known truth, drawn row band by row band; and shapes of known geometry."""

from eds_chunked.synthetic.phantom import Rock, rock
from eds_chunked.synthetic.shapes import KnownShapes, discs, polygons

__all__ = ["KnownShapes", "Rock", "discs", "polygons", "rock"]
