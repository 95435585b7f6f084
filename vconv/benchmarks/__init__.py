"""Measurements of a whole installation: ``python -m vconv.benchmarks``."""
