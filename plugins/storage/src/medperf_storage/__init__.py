"""Stores for medperf-core: ``http`` and ``https``."""

__version__ = "0.1.0"
