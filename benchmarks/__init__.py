"""Measurements as ratios of interleaved runs; run all with ``python -m benchmarks``."""
