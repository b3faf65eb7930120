"""What a page must never do (load, run, hide), and what both pages must say alike."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from posttrain.diagnose.report import BehaviorReport, ComparisonReport, ReportContent, write_report
from posttrain.diagnose.report.comparison_view import reading
from posttrain.diagnose.report.markdown import code, fence
from posttrain.diagnose.report.text import counted, next_command, unique_slugs, visible
from posttrain.diagnose.types import (
    Bottleneck,
    Check,
    Cost,
    Diagnosis,
    Estimate,
    Outcome,
    PassAtK,
    PathScore,
    ProblemDiagnosis,
    Purpose,
    Split,
    ValidityMeasurement,
)

NAN = float("nan")
UNDEFINED = Estimate(estimate=NAN, low=NAN, high=NAN, method="n < k")
INTERVAL = re.compile(r"[+−]?[\d.]+ \[[+−]?[\d.–]+, [+−]?[\d.–]+\]")


class Page(HTMLParser):
    """Tags, addresses, ids and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in {"meta", "br", "path", "use", "rect"}:
            self.open.append(tag)
        for name, value in attrs:
            self.handlers += [name] if name.startswith("on") else []
            self.ids += [value or ""] if name == "id" else []
            self.addresses += [value or ""] if name in {"src", "href", "xlink:href", "srcset", "action", "data"} else []

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "use", "rect"}:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory, diagnosis_content: ReportContent) -> tuple[Path, str, str]:
    run = tmp_path_factory.mktemp("run")
    html, markdown = write_report(run, diagnosis_content)
    return run, html.read_text(), markdown.read_text()


@pytest.fixture(scope="session")
def loop_pages(tmp_path_factory: pytest.TempPathFactory, loop_content: ReportContent) -> tuple[Path, str, str]:
    run = tmp_path_factory.mktemp("loop")
    html, markdown = write_report(run, loop_content)
    return run, html.read_text(), markdown.read_text()


@pytest.fixture
def empty_behavior() -> BehaviorReport:
    """Nothing was measured: no references, no samples, no examples, no problems."""
    check = Check(
        name="pass@1", op=">=", estimate=NAN, low=NAN, high=NAN, threshold=0.9, n=0, method="-", outcome=Outcome.INCONCLUSIVE
    )
    diagnosis = Diagnosis(
        name="../../etc <b>",
        purpose=Purpose.RETENTION,
        bottleneck=Bottleneck.INCONCLUSIVE,
        confidence=NAN,
        role=None,
        shares={},
        stage=None,
        checks=(check,),
        pass_at_k=(PassAtK(k=1, value=UNDEFINED, extrapolated=False),),
        problems=(),
        settles_with=None,
        cost=Cost(),
        caveats=(),
        sentence="Nothing was measured.",
    )
    validity = ValidityMeasurement(behavior="x", checks=(), notes=(), failures=(), prompt_example="")
    return BehaviorReport(diagnosis=diagnosis, validity=validity, epsilon=0.006, mastered_threshold=0.9)


def content_of(
    content: ReportContent, *behaviors: BehaviorReport, comparisons: tuple[ComparisonReport, ...] = ()
) -> ReportContent:
    return replace(content, behaviors=behaviors, comparisons=comparisons)


@pytest.mark.parametrize("kind", ["pages", "loop_pages"])
def test_the_page_loads_and_runs_nothing(kind: str, request: pytest.FixtureRequest) -> None:
    _, html, _ = request.getfixturevalue(kind)
    page = Page(html)
    assert not page.open
    assert not page.tags & {"script", "img", "link", "iframe", "object", "embed", "base", "form", "image"}
    assert not page.handlers
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", html))
    assert "@import" not in html


def test_hostile_text_is_shown_as_text(pages: tuple[Path, str, str]) -> None:
    _, html, markdown = pages
    assert '<script>alert("x")</script>' in "".join(Page(html).words)
    assert "&lt;script&gt;" in html
    outside, inside = [], False
    for line in markdown.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            outside.append(line)
    assert not any("<script" in line or "<img" in line for line in outside)
    assert "````text\n<script>" in markdown


def test_both_pages_carry_the_same_numbers(pages: tuple[Path, str, str], loop_pages: tuple[Path, str, str]) -> None:
    for _, html, markdown in (pages, loop_pages):
        in_html = set(INTERVAL.findall(" ".join(Page(html).words)))
        assert len(in_html) > 20
        assert in_html == set(INTERVAL.findall(markdown))


def test_the_first_words_say_what_to_do(pages: tuple[Path, str, str], loop_pages: tuple[Path, str, str]) -> None:
    run, html, markdown = pages
    assert markdown.index("## What to do next") < markdown.index("## Summary") < markdown.index("## products")
    words = " ".join("".join(Page(html).words).split())
    for text in (words, markdown):
        assert f"posttrain train grpo HuggingFaceTB/SmolLM2-135M-Instruct products --out {run}-grpo" in text
        assert "4 096 more samples (about 52 000 tokens, 61 s at the speed so far)" in text
        assert "Repair the measurement, then diagnose again: The verifier refuses 30 of 32 references" in text
    _, html, markdown = loop_pages
    for text in (html, markdown):
        assert text.index("Before and after") < text.index("What to do next")
        assert "+.25 [+.19, +.31]" in text
        assert "no difference shown: 0 is inside" in text


def test_outcomes_are_words(pages: tuple[Path, str, str]) -> None:
    words = " ".join(Page(pages[1]).words)
    for text in (words, pages[2]):
        assert "not met" in text
        assert "inconclusive" in text
        assert "not_met" not in text
        assert "32 problems" in text


def test_figures_lie_beside_the_pages(pages: tuple[Path, str, str]) -> None:
    run, html, markdown = pages
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", markdown)
    assert len(links) == html.count("<svg ") == 24
    for link in links:
        assert (run / link).read_text().startswith("<?xml")
        assert (run / link).with_suffix(".csv").read_text().count("\n") > 1
    assert not list(run.rglob("*.tmp"))


def test_a_comparison_shows_curves_and_where_problems_went(loop_pages: tuple[Path, str, str]) -> None:
    shown = {path.stem for path in (loop_pages[0] / "figures" / "change-products").glob("*.svg")}
    assert shown == {"pass_at_k", "before_after", "cover_at_tau", "support_transitions"}


def test_inline_figures_follow_the_theme(pages: tuple[Path, str, str]) -> None:
    html = pages[1]
    drawings = re.findall(r"<svg .*?</svg>", html, flags=re.DOTALL)
    assert all("var(--fig-ink)" in drawing and "#1c2128" not in drawing and "<!--" not in drawing for drawing in drawings)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_the_same_content_gives_the_same_files(
    tmp_path: Path, loop_pages: tuple[Path, str, str], loop_content: ReportContent
) -> None:
    run, html, markdown = loop_pages
    again = write_report(run, loop_content)
    assert (again[0].read_text(), again[1].read_text()) == (html, markdown)


def test_nothing_measured(tmp_path: Path, diagnosis_content: ReportContent, empty_behavior: BehaviorReport) -> None:
    html, markdown = write_report(tmp_path, content_of(diagnosis_content, empty_behavior, empty_behavior))
    Page(html.read_text())
    assert "No right sample to show." in markdown.read_text()
    assert "Measure more before training anything." in html.read_text()
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["etc-b", "etc-b-2"]
    write_report(tmp_path, content_of(diagnosis_content))


@pytest.mark.parametrize("rate", [0.0, 1.0, NAN])
def test_one_problem(tmp_path: Path, rate: float, diagnosis_content: ReportContent, empty_behavior: BehaviorReport) -> None:
    problem = ProblemDiagnosis(
        id="p|1",
        split=Split.TRAIN,
        state=Bottleneck.INCONCLUSIVE,
        posterior={},
        num_samples=0,
        num_correct=0,
        num_missing=4,
        num_unparsed=0,
        num_truncated=0,
        p=rate,
        p_low=NAN,
        p_high=NAN,
        p_method="none",
        reference_nll_per_token=NAN,
    )
    report = replace(empty_behavior, diagnosis=replace(empty_behavior.diagnosis, problems=(problem,)))
    _, markdown = write_report(tmp_path, content_of(diagnosis_content, report))
    assert "p\\|1" in markdown.read_text()


def test_undefined_comparison(tmp_path: Path, loop_content: ReportContent) -> None:
    bare = ComparisonReport(
        name="a",
        trained=False,
        stage=None,
        num_problems=0,
        pass_at_1_before=UNDEFINED,
        pass_at_1_after=UNDEFINED,
        delta=UNDEFINED,
    )
    html, _ = write_report(tmp_path, content_of(loop_content, comparisons=(bare, bare)))
    assert "undefined" in html.read_text()


def test_hostile_tokens_stay_out_of_the_page(tmp_path: Path, diagnosis_content: ReportContent) -> None:
    report = diagnosis_content.behaviors[0]
    assert report.path is not None
    score: PathScore = report.path.paths[0]
    evil = ("--><script>alert(1)</script>", "]]>", "\ud800", "$x$", "日本", *score.token_texts[5:])
    path = replace(
        report.path, paths=(replace(score, token_texts=evil),), nll_per_token=np.array([1.0]), weakest_step=np.array([0])
    )
    html, _ = write_report(tmp_path, content_of(diagnosis_content, replace(report, path=path)))
    assert "script" not in Page(html.read_text()).tags


def test_next_command(diagnosis_content: ReportContent, loop_content: ReportContent) -> None:
    report, run = diagnosis_content.behaviors[0], Path("my runs/a")
    assert next_command(replace(report, next_command="make it so"), diagnosis_content, run) == "make it so"
    found = next_command(replace(report, source="b;c.yaml"), replace(diagnosis_content, model="m"), run)
    assert found == "posttrain train grpo m 'b;c.yaml' --out 'my runs/a-grpo'"
    assert next_command(diagnosis_content.behaviors[2], diagnosis_content, run) is None
    # On the page of a loop the verdict is about its last checkpoint, so the model at its start must not be named.
    assert next_command(report, loop_content, run) is None
    known = replace(loop_content, checkpoint="out/ckpt", measured_in="out/after")
    assert next_command(report, known, run) == "posttrain train grpo out/ckpt products --out out/after-grpo"


def test_n_says_what_it_counts(diagnosis_content: ReportContent) -> None:
    check = replace(diagnosis_content.behaviors[0].diagnosis.checks[0], unit="problems", n=1200)
    assert counted(check) == "1 200 problems"
    assert counted(replace(check, unit="")) == "1 200"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.1, 0.2, "higher"), (-0.2, -0.1, "lower"), (-0.1, 0.1, "no difference shown"), (NAN, NAN, "undefined")],
)
def test_reading_of_a_difference(low: float, high: float, words: str) -> None:
    assert reading(Estimate(estimate=(low + high) / 2, low=low, high=high, method="")).startswith(words)


def test_text_helpers() -> None:
    assert unique_slugs(["a b", "a/b", "..", "é"]) == ["a-b", "a-b-2", "behavior", "behavior-2"]
    assert visible("a\x00\x1b\ud800\r\nb") == "a␀␛?\nb"
    assert visible("x" * 7000).endswith("[1000 more characters, see the rollouts]")
    assert fence("a ```` b") == "`````text\na ```` b\n`````"
    assert code("a`b|c") == "``a`b¦c``"
