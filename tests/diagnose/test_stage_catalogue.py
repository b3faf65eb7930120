from __future__ import annotations

from pathlib import Path

from posttrain.diagnose.stage_catalogue import STAGES, to_markdown

PAGE = Path(__file__).parents[2] / "reports" / "STAGES.md"


def test_the_page_of_stages_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == to_markdown(), "run `posttrain stages --markdown > reports/STAGES.md`"


def test_what_trains_says_when_it_is_right_and_when_it_is_in_vain() -> None:
    for stage in STAGES.values():
        if stage.trains:
            assert stage.needs, stage.name
            assert stage.paper, stage.name
            assert stage.right_when, stage.name
            assert stage.no_signal_when, stage.name
