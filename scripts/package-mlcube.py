"""Package an MLCube: ``python scripts/package-mlcube.py PATH`` is ``medperf mlcube package PATH``.

Takes the options of that command too: ``--mlcube PATH --mlcube-types model [--output FOLDER or .tar.gz]``. Where
medperf-core is not installed for this Python, the environment that ``make`` set up in this clone is used.
"""

import os
import sys
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
ENVIRONMENT = CLONE / ".venv"

try:
    import medperf_core.cli.commands.mlcube  # noqa: F401 - a package that lacks what it stands on is found out here
    from medperf_core.cli.main import main
except ModuleNotFoundError as error:
    python = ENVIRONMENT / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != ENVIRONMENT:
        os.execv(python, [str(python), *sys.argv])
    sys.exit(
        f"Error: medperf-core is not installed for {sys.executable} ({error}). Run `make setup` in {CLONE}, "
        "or use the Python that it is installed for."
    )

main(["mlcube", "package", *sys.argv[1:]])
