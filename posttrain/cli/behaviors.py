"""`posttrain behaviors`: the bundled behaviors."""

from __future__ import annotations

EXAMPLES = ("posttrain behaviors",)


def behaviors() -> None:
    """List the bundled behaviors."""
    from posttrain.diagnose.behaviors import bundled_behaviors, describe_bundled

    for found in describe_bundled():
        print(f"{found.name:16} {found.verifier:8} {found.num_problems:3} problems  {found.purpose:10} {found.question}")
    print(f"files: {next(iter(bundled_behaviors().values())).parent}")
