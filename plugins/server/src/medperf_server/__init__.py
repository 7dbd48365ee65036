"""The registry of benchmarks, containers, models, datasets and results: rules, an SQL store, and an embedded client."""
