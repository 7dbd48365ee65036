"""Faults are provoked: programs killed at any moment, full disks, dead servers."""
