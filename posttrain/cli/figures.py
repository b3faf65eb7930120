"""`posttrain figures`: what `plot` can show."""

from __future__ import annotations

import json

from posttrain.cli.options import AsJson

EXAMPLES = (
    "posttrain figures",
    "posttrain figures --json",
)


def figures(as_json: AsJson = False) -> None:
    """List the figures of `posttrain plot`.

    Each with what it shows and which folders it takes.
    """
    from posttrain.analysis import FIGURES

    if as_json:
        print(
            json.dumps([{"name": name, "shows": entry.shows, "takes": entry.takes} for name, entry in FIGURES.items()], indent=1)
        )
        return
    for takes in dict.fromkeys(entry.takes for entry in FIGURES.values()):
        print(f"from {takes}")
        for name, entry in FIGURES.items():
            if entry.takes == takes:
                print(f"  {name:21} {entry.shows}")
