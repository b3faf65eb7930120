"""Starts a child: `python bootstrap.py [script] [folder of packages]...`.

Importing a module runs the `__init__` of every package above it, and that of `posttrain.diagnose` imports statistics and figures:
seconds and hundreds of megabytes that reading a text has no use for. So these packages are put in place here by hand, empty. This
also makes the child run the parent's very files, however the parent found them.

Scripts: `child` reads texts (the default), `environment` lists the problems of an environment, `rollouts` has an environment's own loop sample a
server, `code_host` executes a program, `code_tests` holds its tests, `try_isolation` tries the isolation.
"""

import sys
import types
from pathlib import Path


def put_packages_in_place(*, standalone: bool = False) -> None:
    """Make `posttrain` and `posttrain.diagnose` importable without running their `__init__`.

    Args:
        standalone: Whether the packages of the verifiers are left empty, too: what executes code imports the standard library alone, and what reads an
            environment needs no verifier.
    """
    sandbox = Path(__file__).resolve().parent
    folders = {"posttrain": None, "posttrain.diagnose": sandbox.parents[1]}
    if standalone:
        folders |= {"posttrain.diagnose.verifiers": sandbox.parent, "posttrain.diagnose.verifiers.sandbox": sandbox}
    for name, folder in folders.items():
        package = types.ModuleType(name)
        package.__path__ = [] if folder is None else [str(folder)]
        sys.modules[name] = package


if __name__ == "__main__":
    script = sys.argv[1] if len(sys.argv) > 1 else "child"
    sys.path += sys.argv[2:]
    put_packages_in_place(standalone=script != "child")
    if script == "child":
        from posttrain.diagnose.verifiers.sandbox.child import main
    elif script == "code_host":
        from posttrain.diagnose.verifiers.sandbox.code_host import main
    elif script == "environment":
        from posttrain.diagnose.verifiers.environments.list_problems import main
    elif script == "rollouts":
        from posttrain.diagnose.verifiers.environments.sample_rollouts import main
    elif script == "code_tests":
        from posttrain.diagnose.verifiers.sandbox.code_tests import main
    else:
        from posttrain.diagnose.verifiers.sandbox.try_isolation import main

    main()
