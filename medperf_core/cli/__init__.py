"""The ``medperf`` command: click commands that parse, call one journey, and print. No rules live here."""
