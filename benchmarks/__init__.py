"""One script per claim: `python -m benchmarks.NAME [--quick]`. Both sides of a comparison run in the same process."""
