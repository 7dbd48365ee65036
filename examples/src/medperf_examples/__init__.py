"""Example benchmarks for medperf-core, shipped as package data."""
