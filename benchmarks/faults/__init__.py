"""Loops that look for faults; `python -m benchmarks.faults` runs them, and docs/reliability.md says what they check."""
