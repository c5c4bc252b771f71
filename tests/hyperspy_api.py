"""HyperSpy and eXSpy, imported without the warnings of their own imports."""

import warnings

with warnings.catch_warnings():
    # eXSpy imports HyperSpy's classes from where they no longer are.
    warnings.filterwarnings("ignore", message="Importing .* is deprecated", category=UserWarning)
    import exspy
    import hyperspy.api as hs

__all__ = ["exspy", "hs"]
