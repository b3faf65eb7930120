"""`posttrain behaviors`: the bundled behaviors."""

from __future__ import annotations

EXAMPLES = ("posttrain behaviors",)


def behaviors() -> None:
    """List the bundled behaviors."""
    from posttrain.diagnose import bundled_behaviors, load_behavior
    from posttrain.diagnose.types import Split

    found = bundled_behaviors()
    for name in found:
        behavior = load_behavior(name)
        sizes = ", ".join(f"{len(behavior.split(split))} {split}" for split in Split)
        question = behavior.split(Split.TRAIN)[0].prompt
        text = question if isinstance(question, str) else question[-1].content
        print(f"{name:16} {behavior.verifier.kind:14} {sizes:32} e.g. {text.splitlines()[0][:60]}")
    print(f"files: {next(iter(found.values())).parent}")
