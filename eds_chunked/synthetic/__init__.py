"""Synthetic rocks: maps of any size with known truth, drawn row band by row band."""

from eds_chunked.synthetic.phantom import Rock, rock

__all__ = ["Rock", "rock"]
