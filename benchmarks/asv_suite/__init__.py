"""What is tracked from commit to commit, by asv: ``cd benchmarks && asv run -E existing``."""
