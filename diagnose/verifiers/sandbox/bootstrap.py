"""Starts the child: `python -P bootstrap.py`.

Importing a module runs the `__init__` of every package above it, and that of `posttrain.diagnose` imports statistics and figures:
seconds and hundreds of megabytes that reading a text has no use for. So these packages are put in place here by hand, empty. This
also makes the child run the parent's very files, however the parent found them.
"""

import sys
import types
from pathlib import Path


def put_packages_in_place() -> None:
    """Make `posttrain` and `posttrain.diagnose` importable without running their `__init__`."""
    diagnose = Path(__file__).resolve().parents[2]
    for name, folders in (("posttrain", []), ("posttrain.diagnose", [str(diagnose)])):
        package = types.ModuleType(name)
        package.__path__ = folders
        sys.modules[name] = package


if __name__ == "__main__":
    put_packages_in_place()
    from posttrain.diagnose.verifiers.sandbox.child import main

    main()
