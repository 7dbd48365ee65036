"""Fuzzing of every parser of outside input. See README.md; not part of ``make test``."""
