"""The ``docker`` runner of medperf: container tasks on a Docker daemon, or on Podman's Docker interface."""
