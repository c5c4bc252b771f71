"""Maps and results for HyperSpy, and from it."""
