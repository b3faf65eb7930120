"""`posttrain gate`: conditions with an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from posttrain.cli.options import AsJson, MarkdownFile
from posttrain.cli.printing import check_markdown, write_markdown

EXAMPLES = (
    "posttrain gate runs/mine 'pass@16>=0.5' 'sums:greedy>=0.3'",
    "posttrain gate runs/mine-compared '*:delta pass@1>=-0.02'",
    "posttrain gate runs/mine 'pass@1>=0.5' --markdown -",
)


def gate(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Folder of a `posttrain diagnose` or `import`, or a file of counts ({id, c, n} per line); of a `compare` or `loop` for delta pass@K.",
        ),
    ],
    conditions: Annotated[
        list[str],
        typer.Argument(
            metavar="CONDITION...",
            help="[BEHAVIOR:]METRIC>=NUMBER or <=. METRIC: pass@K, greedy, share_within_support, share_missing_support, share_poor_choice, "
            "share_mastered; for a comparison delta pass@K ('delta pass@1>=-0.02': no drop larger than .02). BEHAVIOR may be a pattern "
            "such as '*'; without it every target behavior is meant.",
        ),
    ],
    markdown: MarkdownFile = None,
    as_json: AsJson = False,
) -> None:
    """Test conditions on a run and exit by the result.

    All conditions must hold: exit code 0 met, 1 proven not met, 3 not decided yet.

    >= is met when the lower bound of the 95 % interval reaches the number, <= when the upper bound does. That all of several conditions
    hold needs no correction; that one of m fails is claimed only at 1 - .05/m. A condition that is not decided says which effort would decide it.
    """
    from posttrain.diagnose import gate as run_gate
    from posttrain.diagnose.gates.gate_result import describe_condition, gate_to_json

    check_markdown(markdown, as_json=as_json)
    result = run_gate(run, conditions)
    if markdown is not None:
        from posttrain.diagnose.report.pull_request import gate_markdown

        write_markdown(markdown, gate_markdown(result, str(run)))
    if markdown != "-":
        print(json.dumps(gate_to_json(result), indent=1) if as_json else "\n".join(map(describe_condition, result.conditions)))
    raise typer.Exit(result.exit_code)
