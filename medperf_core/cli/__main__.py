"""``python -m medperf_core.cli`` is the ``medperf`` command."""

from medperf_core.cli.main import main

main()
