"""The ``singularity`` runner of medperf: container tasks with Apptainer, or with Singularity."""
