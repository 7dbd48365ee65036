"""medperf-core."""
