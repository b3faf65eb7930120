"""What a page must never do (load, run, hide), and what both pages must say alike. Its words stand in `golden/`."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.report_files import compare_file, diagnosis_file

from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry, PassAtOneEntry
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.report.comparison_view import tone
from posttrain.diagnose.report.markdown import code, fence
from posttrain.diagnose.report.report_files import write_report
from posttrain.diagnose.report.text import MethodNotes, counted, unique_slugs, visible
from posttrain.diagnose.report.verdict_view import NextStart, next_command
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry, CheckEntry, EstimateEntry, PassAtKEntry
from posttrain.diagnose.storage.json_model import FileModel, write_model
from posttrain.diagnose.storage.problem_json import ProblemEntry
from posttrain.diagnose.types import Bottleneck, Outcome, Purpose, Split

NAN = float("nan")
UNDEFINED = EstimateEntry(estimate=NAN, low=NAN, high=NAN, method="n < k")
INTERVAL = re.compile(r"[+−]?[\d.]+ \[[+−]?[\d.–]+, [+−]?[\d.–]+\]")
GOLDEN = Path(__file__).with_name("golden")
"""`POSTTRAIN_WRITE_GOLDEN=1 pytest tests/diagnose/report` writes these files again; read the difference before it is committed."""
KINDS = ["pages", "training_pages", "comparison_pages", "checkpoint_pages"]
Pages = tuple[Path, str, str]


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


def empty_behavior(**fields: Any) -> BehaviorEntry:
    """Nothing was measured: no references, no samples, no examples, no problems."""
    check = CheckEntry(
        name="pass@1", op=">=", estimate=NAN, low=NAN, high=NAN, threshold=0.9, n=0, method="-", outcome=Outcome.INCONCLUSIVE
    )
    entry = BehaviorEntry(
        name="../../etc <b>",
        purpose=Purpose.RETENTION,
        bottleneck=Bottleneck.INCONCLUSIVE,
        confidence=NAN,
        sentence="Nothing was measured.",
        measure={"epsilon": 0.006},
        checks=[check],
        pass_at_k=[PassAtKEntry(k=1, estimate=NAN, low=NAN, high=NAN, method="n < k")],
    )
    return entry.model_copy(update=fields)


def write_diagnosis(folder: Path, *behaviors: BehaviorEntry) -> Path:
    write_model(folder / "diagnosis.json", diagnosis_file().model_copy(update={"behaviors": behaviors}))
    return folder


# --------------------------------------------------------------------------------------------------------------------- words


def shown(html: str) -> str:
    """Return the page without styles and pictures, one element a line: what a golden file holds."""
    body = re.sub(r"<style>.*?</style>", "<style/>", html, flags=re.DOTALL)
    return re.sub(r"<svg .*?</svg>", "<svg/>", body, flags=re.DOTALL)


def assert_same_page(page: str, golden: str) -> None:
    """Compare two pages: the words exactly, the numbers but for the last digit of one in fifty.

    Likelihoods are maximized in single precision, so that on another processor an estimate may be rounded otherwise, wherever it stands.
    """
    number = re.compile(r"\d+(?:\.\d+)?")
    assert number.split(page) == number.split(golden)
    pairs = list(zip(number.findall(page), number.findall(golden), strict=True))
    differing = [(one, other) for one, other in pairs if one != other]
    assert len(differing) <= len(pairs) / 50
    for one, other in differing:
        last_digit = 10.0 ** -len(one.partition(".")[2])
        assert abs(float(one) - float(other)) <= 1.01 * last_digit


@pytest.mark.parametrize("kind", KINDS)
def test_the_pages_are_those_of_the_golden_files(kind: str, request: pytest.FixtureRequest) -> None:
    folder, html, markdown = request.getfixturevalue(kind)
    assert str(folder) not in html + markdown
    name = kind.removesuffix("pages").strip("_") or "diagnosis"
    for path, text in ((GOLDEN / f"{name}.html", shown(html)), (GOLDEN / f"{name}.md", markdown)):
        if os.environ.get("POSTTRAIN_WRITE_GOLDEN"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert_same_page(text, path.read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_json_copied_elsewhere_gives_the_same_page(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder, html, markdown = request.getfixturevalue(kind)
    for path in folder.rglob("*.json"):
        target = tmp_path / "elsewhere" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    again = write_report(tmp_path / "elsewhere")
    assert (again[0].read_text(), again[1].read_text()) == (html, markdown)


@pytest.mark.parametrize("kind", KINDS)
def test_both_pages_carry_the_same_numbers(kind: str, request: pytest.FixtureRequest) -> None:
    _, html, markdown = request.getfixturevalue(kind)
    in_html = set(INTERVAL.findall(" ".join(Page(html).words)))
    assert len(in_html) > 10
    assert in_html == set(INTERVAL.findall(markdown))


def imported(folder: Path, untold: list[str], num_truncated: int) -> str:
    """Return the Markdown page of one imported behavior with four problems; of the first, `num_truncated` samples are truncated."""
    folder.mkdir()
    counts: dict[str, Any] = {"split": Split.EVAL, "num_samples": 8, "num_correct": 2, "state": Bottleneck.POOR_CHOICE}
    problems = tuple(ProblemEntry(id=f"p{place}", num_truncated=num_truncated * (place == 0), **counts) for place in range(4))
    file = diagnosis_file()
    settings = {**file.settings, "source": {"format": "table", "untold": untold}}
    write_model(
        folder / "diagnosis.json",
        file.model_copy(update={"settings": settings, "behaviors": [empty_behavior(problems=problems)]}),
    )
    return write_report(folder)[1].read_text()


def test_truncated_samples_are_not_counted_where_the_source_does_not_tell_why_samples_ended(tmp_path: Path) -> None:
    told = imported(tmp_path / "told", ["logprobs"], 0)
    assert "8 right, 0 unparsed, 0 truncated; 0 more missing" in told
    assert "| 2 of 8 | 0 | 0 | 0 |" in told
    untold = imported(tmp_path / "untold", ["logprobs", "stop_reasons"], 0)
    assert "8 right, 0 unparsed; 0 more missing" in untold
    assert "| 2 of 8 | 0 | – | 0 |" in untold
    some = imported(tmp_path / "some", ["stop_reasons"], 3)
    assert "8 right, 0 unparsed, 3 truncated (or more: the source does not tell of all); 0 more missing" in some
    assert "| 2 of 8 | 0 | 3 | 0 |" in some


def test_what_to_do_comes_first(pages: Pages, training_pages: Pages) -> None:
    _, html, markdown = pages
    assert markdown.index("## What to do next") < markdown.index("## Summary") < markdown.index("## products")
    assert html.index('id="next"') < html.index('id="summary"') < html.index('id="b-products"')
    _, html, markdown = training_pages
    assert markdown.index("## Before and after") < markdown.index("## What to do next")
    assert html.index('id="changes"') < html.index('id="next"')


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_is_explained_once(kind: str, request: pytest.FixtureRequest) -> None:
    _, html, markdown = request.getfixturevalue(kind)
    methods = {
        "pages": ("bootstrap over problems", "Wilson"),
        "checkpoint_pages": ("t over problems; all 8 intervals at once", "paired t; all 6 intervals at once"),
    }
    for method in methods.get(kind, ("paired bootstrap over problems",)):
        assert html.count(f">{method}<") == 1
        assert len(re.findall(rf"^\d+\. {method}$", markdown, flags=re.MULTILINE)) == 1


# -------------------------------------------------------------------------------------------------------------------- safety


@pytest.mark.parametrize("kind", KINDS)
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


def test_hostile_text_is_shown_as_text(pages: Pages) -> None:
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


def test_hostile_tokens_stay_out_of_the_page(tmp_path: Path) -> None:
    entry = diagnosis_file().behaviors[0]
    data = entry.references.excerpts[0].model_dump()
    data["tokens"][:5] = ["--><script>alert(1)</script>", "]]>", "\ud800", "$x$", "日本"]
    excerpt = type(entry.references.excerpts[0]).model_validate(data)
    references = entry.references.model_copy(update={"excerpts": [excerpt]})
    html, _ = write_report(write_diagnosis(tmp_path, entry.model_copy(update={"references": references})))
    assert "script" not in Page(html.read_text()).tags


# ------------------------------------------------------------------------------------------------------------------- figures


def test_figures_lie_beside_the_pages(pages: Pages) -> None:
    run, html, markdown = pages
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", markdown)
    assert len(links) == html.count("<svg ") == 29
    for link in links:
        assert (run / link).read_text().startswith("<?xml")
        assert (run / link).with_suffix(".csv").read_text().count("\n") > 1
    assert not list(run.rglob("*.tmp"))


def test_a_comparison_shows_curves_and_where_problems_went(training_pages: Pages) -> None:
    names = {path.stem for path in (training_pages[0] / "figures" / "change-products").glob("*.svg")}
    assert names == {"pass_at_k", "before_after", "cover_at_tau", "support_transitions", "support_transitions-2"}


def test_inline_figures_follow_the_theme(pages: Pages) -> None:
    html = pages[1]
    figures = re.findall(r"<svg .*?</svg>", html, flags=re.DOTALL)
    assert all("var(--fig-ink)" in figure and "#1c2128" not in figure and "<!--" not in figure for figure in figures)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


# ---------------------------------------------------------------------------------------------------------------- edge cases


def test_nothing_measured(tmp_path: Path) -> None:
    html, markdown = write_report(write_diagnosis(tmp_path, empty_behavior(), empty_behavior()))
    Page(html.read_text())
    assert markdown.exists()
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["etc-b", "etc-b-2"]
    write_report(write_diagnosis(tmp_path))


@pytest.mark.parametrize("rate", [0.0, 1.0, NAN])
def test_one_problem(tmp_path: Path, rate: float) -> None:
    problem = ProblemEntry(
        id="p|1",
        split=Split.TRAIN,
        state=Bottleneck.INCONCLUSIVE,
        num_samples=0,
        num_correct=0,
        num_missing=4,
        p=rate,
        p_method="none",
    )
    _, markdown = write_report(write_diagnosis(tmp_path, empty_behavior(problems=(problem,))))
    assert "p\\|1" in markdown.read_text()


@pytest.mark.parametrize("leans_to", [Bottleneck.POOR_CHOICE, None])
def test_a_label_that_is_open_has_no_probability_on_the_page(tmp_path: Path, leans_to: Bottleneck | None) -> None:
    folder = write_diagnosis(tmp_path, empty_behavior(confidence=0.6213, leans_to=leans_to))
    for page in write_report(folder):
        text = page.read_text()
        assert "0.62" not in text
        assert ("leans to poor choice" in text) is (leans_to is not None)


def test_undefined_comparison(tmp_path: Path) -> None:
    entry = BehaviorChangeEntry(
        name="a", num_problems=0, pass_at_1=PassAtOneEntry(before=UNDEFINED, after=UNDEFINED, delta=UNDEFINED)
    )
    write_model(tmp_path / "compare.json", compare_file().model_copy(update={"behaviors": [entry, entry]}))
    html, _ = write_report(tmp_path)
    assert 'class="delta undefined"' in html.read_text()


def test_old_files_and_unknown_fields_can_be_rendered(tmp_path: Path) -> None:
    """Only what version 1 had from its first day, and a field that no reader knows."""
    data = diagnosis_file().to_json()
    data["future"] = 1
    for entry in data["behaviors"]:
        for key in ("validity", "sampling", "examples", "references", "source", "label", "probes", "purpose"):
            del entry[key]
        entry["future"] = {"x": 1}
    del data["run"]
    (tmp_path / "diagnosis.json").write_text(json.dumps(data))
    html, _ = write_report(tmp_path)
    assert 'id="b-products"' in html.read_text()


def test_the_loop_of_an_earlier_version_is_rendered_without_rounds(tmp_path: Path) -> None:
    """It recorded the stages and the bottlenecks, and nothing else."""
    write_model(tmp_path / "compare.json", compare_file())
    stage = {"stage": "sft", "trained": ["products"], "checkpoint": "runs/loop/stage-1", "fingerprint": "abc"}
    labels = {"products": {"before": "missing_support", "after": "poor_choice"}}
    (tmp_path / "loop.json").write_text(json.dumps({"schema": 1, "rounds": [stage], "bottlenecks": labels}))
    html, markdown = write_report(tmp_path)
    assert "## Rounds" not in markdown.read_text()
    assert 'id="rounds"' not in html.read_text()


@pytest.mark.parametrize("content", ["{", '{"schema": 2, "behaviors": []}', '{"schema": 1, "behaviors": [{}]}'])
def test_files_that_cannot_be_read_are_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "diagnosis.json").write_text(content)
    with pytest.raises(RunError) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.code in ("unreadable_file", "unknown_version")


def test_a_folder_without_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        write_report(tmp_path)
    assert caught.value.code == "nothing_to_report"


# ------------------------------------------------------------------------------------------------------------------- helpers


def test_next_command() -> None:
    products, _, plural, _ = diagnosis_file().behaviors
    start = NextStart(model="m", run="my runs/a")
    found = next_command(products.model_copy(update={"source": "b;c.yaml"}), start)
    assert found == "posttrain train grpo m 'b;c.yaml' --out 'my runs/a-grpo'"
    assert next_command(plural, start) is None
    kept = plural.model_copy(update={"purpose": Purpose.RETENTION, "source": "kept.yaml", "num_train_problems": 3})
    retaining = NextStart.of("m", "a", [products, kept, kept.model_copy(update={"num_train_problems": 0})])
    assert str(next_command(products, retaining)).endswith("--out a-grpo --retain kept.yaml")
    weighing = replace(retaining, retention_weight=0.5)
    assert str(next_command(products, weighing)).endswith("--retain kept.yaml --set retain_weight=0.5")


@pytest.mark.parametrize(
    ("needs", "given", "option"),
    [
        (("earlier_checkpoint", "verifier"), {"earlier": "old"}, "--earlier old"),
        (("teacher",), {"teacher": "big", "earlier": "old"}, "--teacher big"),
        (("teacher",), {"earlier": "old"}, "--earlier old"),
        (("verifier",), {"teacher": "big", "earlier": "old"}, "--out a-grpo"),
    ],
)
def test_the_next_command_names_the_models_that_the_stage_learns_from(
    needs: tuple[str, ...], given: dict[str, str], option: str
) -> None:
    products = diagnosis_file().behaviors[0]
    assert products.stage is not None
    entry = products.model_copy(update={"stage": products.stage.model_copy(update={"needs": needs})})
    assert str(next_command(entry, NextStart(model="m", run="a", **given))).endswith(option)


def test_after_training_the_next_stage_starts_from_the_checkpoint(training_pages: Pages) -> None:
    command = "posttrain train grpo runs/loop/stage-1 products --out runs/loop/diagnosis-1-grpo"
    assert command in training_pages[2]


def test_n_says_what_it_counts() -> None:
    check = diagnosis_file().behaviors[0].checks[0].model_copy(update={"n": 1200})
    assert counted(check) == "1 200 problems"
    assert counted(check.model_copy(update={"unit": ""})) == "1 200"


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "same"), (NAN, NAN, "undefined")]
)
def test_which_way_a_difference_points(low: float, high: float, expected: str) -> None:
    assert tone(EstimateEntry(estimate=(low + high) / 2, low=low, high=high)) == expected


def test_methods_are_numbered_in_the_order_in_which_they_are_met() -> None:
    methods = MethodNotes()
    assert [methods.number(method) for method in ("a", "b", "a", "")] == ["1", "2", "1", ""]
    assert methods.notes == [("1", "a"), ("2", "b")]


def test_text_helpers() -> None:
    assert unique_slugs(["a b", "a/b", "..", "é"]) == ["a-b", "a-b-2", "behavior", "behavior-2"]
    assert visible("a\x00\x1b\ud800\r\nb") == "a␀␛?\nb"
    assert visible("x" * 7000).endswith("[1000 more characters, see the rollouts]")
    assert fence("a ```` b") == "`````text\na ```` b\n`````"
    assert code("a`b|c") == "``a`b¦c``"


def test_a_number_that_is_undefined_is_null_in_the_file(tmp_path: Path) -> None:
    class Holder(FileModel):
        value: EstimateEntry

    path = tmp_path / "a.json"
    write_model(path, Holder(value=UNDEFINED))
    assert json.loads(path.read_text())["value"]["estimate"] is None
    assert Holder.model_validate(json.loads(path.read_text())).value.estimate != 0  # NaN equals nothing
