"""What a verdict and a report make of imported samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.imported_runs import SAMPLED_PLAINLY, SOURCE, run_of, sample, samples_of, spread

from posttrain.diagnose.errors import UserError
from posttrain.diagnose.importing.imported import ImportedSample, SampleSource, Untold, model_words
from posttrain.diagnose.importing.sample_notes import REPEATS
from posttrain.diagnose.pipeline.count_runs import gate
from posttrain.diagnose.pipeline.diagnosis_file import diagnosis_file
from posttrain.diagnose.pipeline.run_files import write_run
from posttrain.diagnose.report.page import diagnosis_page
from posttrain.diagnose.types import Bottleneck, Note, Outcome, Sampling, StopReason, ValidityCode

LONG = "First add the two numbers, then say what the sum of them is: "


def codes(run: Any) -> set[str]:
    return {note.code for note in run.diagnoses[0].caveats}


def numbered(samples: list[ImportedSample]) -> list[ImportedSample]:
    return [replace(one, text=f"{LONG}{i}") for i, one in enumerate(samples)]


@pytest.mark.parametrize(
    ("sampling", "bottleneck"),
    [
        (Sampling(max_tokens=0), Bottleneck.MISSING_SUPPORT),
        (Sampling(temperature=0.7, max_tokens=0), Bottleneck.INCONCLUSIVE),
        (Sampling(top_p=0.9, max_tokens=0), Bottleneck.INCONCLUSIVE),
        (None, Bottleneck.INCONCLUSIVE),
    ],
)
def test_missing_support_is_said_of_known_plain_sampling_only(
    tmp_path: Path, sampling: Sampling | None, bottleneck: Bottleneck
) -> None:
    run = run_of(numbered(spread(30, 64, 0)), tmp_path / "run", replace(SOURCE, sampling=sampling))
    assert run.diagnoses[0].bottleneck is bottleneck
    if bottleneck is Bottleneck.INCONCLUSIVE:
        assert run.diagnoses[0].leans_to is Bottleneck.MISSING_SUPPORT


def test_a_stage_is_named_as_if_the_grader_of_the_source_were_there(tmp_path: Path) -> None:
    run = run_of(numbered(spread(30, 64, 16)), tmp_path / "run", SAMPLED_PLAINLY)
    (diagnosis,) = run.diagnoses
    assert diagnosis.bottleneck is Bottleneck.POOR_CHOICE
    assert diagnosis.stage is not None
    assert "verifier" in diagnosis.stage.needs
    assert "no_train_problems" in codes(run)


def test_a_page_names_no_command_that_would_train_on_imported_samples(tmp_path: Path) -> None:
    run = run_of(numbered(spread(30, 64, 16)), tmp_path / "run", SAMPLED_PLAINLY)
    (part,) = diagnosis_page(diagnosis_file(run))["verdicts"]
    assert part["command"] is None
    assert "BEHAVIOR" in part["todo"]


def test_a_page_counts_no_tokens_that_the_source_does_not_tell(tmp_path: Path) -> None:
    samples = numbered(spread(6, 4, 1))
    told = [replace(one, num_tokens=10) for one in samples]
    half = [replace(one, num_tokens=10 if number % 2 else None) for number, one in enumerate(samples)]
    costs = []
    partly = replace(SOURCE, untold=frozenset({Untold.TOKEN_COUNTS}))  # as readers say it where some samples do not tell
    for name, given, source in (("untold", samples, SOURCE), ("told", told, SOURCE), ("half", half, partly)):
        (part,) = diagnosis_page(diagnosis_file(run_of(given, tmp_path / name, source)))["behaviors"]
        costs.append(dict(part["cost"]))
    assert costs[0] == {"samples": "24", "generated tokens": "not told"}
    assert costs[1] == {"samples": "24", "generated tokens": "240"}
    assert costs[2] == {"samples": "24", "generated tokens": "120 (not told of all samples)"}


def test_samples_that_are_all_the_same_do_not_count_as_several(tmp_path: Path) -> None:
    same = [replace(one, text=LONG + one.problem) for one in samples_of({f"p{i}": [float(i % 2)] * 16 for i in range(30)})]
    run = run_of(same, tmp_path / "run", SAMPLED_PLAINLY)
    assert codes(run) & REPEATS == {"identical_samples"}
    assert run.diagnoses[0].bottleneck is Bottleneck.INCONCLUSIVE
    apart = run_of(numbered(same), tmp_path / "apart", SAMPLED_PLAINLY)
    assert not codes(apart) & REPEATS
    assert apart.diagnoses[0].bottleneck is Bottleneck.MIXED


def test_without_texts_outcomes_that_never_vary_within_a_problem_are_doubted(tmp_path: Path) -> None:
    run = run_of(samples_of({f"p{i}": [float(i % 2)] * 16 for i in range(30)}), tmp_path / "run", SAMPLED_PLAINLY)
    assert codes(run) & REPEATS == {"constant_outcomes"}
    assert run.diagnoses[0].bottleneck is Bottleneck.INCONCLUSIVE
    all_right = run_of(samples_of({f"p{i}": [1.0] * 16 for i in range(30)}), tmp_path / "right", SAMPLED_PLAINLY)
    assert not codes(all_right) & REPEATS
    assert all_right.diagnoses[0].bottleneck is Bottleneck.MASTERED


def test_short_answers_may_repeat(tmp_path: Path) -> None:
    samples = [replace(one, text="yes" if one.score else "no") for one in samples_of({f"p{i}": [1.0] * 16 for i in range(30)})]
    run = run_of(samples, tmp_path / "run", SAMPLED_PLAINLY)
    assert "repeated_short_texts" in codes(run)
    assert run.diagnoses[0].bottleneck is Bottleneck.MASTERED


@pytest.mark.parametrize(
    ("code", "samples"),
    [
        ("repeated_samples", [sample(f"p{i}", 1.0, text=f"{LONG}{i}{j // 2}") for i in range(9) for j in range(4)]),
        ("empty_texts", [sample(f"p{i}", 0.0, text="" if i == 1 else f"{i}") for i in range(9)]),
        ("one_prompt", [sample(f"p{i}", 1.0, prompt="Answer.") for i in range(3)]),
        ("several_answers", [replace(sample("p", 1.0), answer="4", answers=("four",)), sample("q", 1.0)]),
        ("no_success", [sample(f"p{i}", 0.0) for i in range(12)]),
        ("problem_texts_differ", [sample("p", 1.0, prompt="a"), sample("p", 1.0, prompt="b")]),
        ("truncated_successes", [sample("p", 1.0, stop=StopReason.LENGTH)]),
        ("partial_scores", [sample("p", 0.5), sample("p", 1.0)]),
    ],
)
def test_what_samples_show_of_themselves_is_said(tmp_path: Path, code: str, samples: list[ImportedSample]) -> None:
    assert code in codes(run_of(samples, tmp_path / "run"))


def test_nothing_of_it_is_said_of_sound_samples(tmp_path: Path) -> None:
    given = [replace(one, prompt=one.problem, stop=StopReason.EOS) for one in numbered(spread(30, 8, 3))]
    assert codes(run_of(given, tmp_path / "run", SAMPLED_PLAINLY)) == {"no_train_problems"}


def test_shares_are_checked_where_the_source_tells_them(tmp_path: Path) -> None:
    cut = run_of([sample(f"p{i}", 0.0, stop=StopReason.LENGTH) for i in range(40)], tmp_path / "cut")
    assert cut["sums"].validity.failure_codes == (ValidityCode.TRUNCATED,)
    assert cut.diagnoses[0].bottleneck is Bottleneck.INVALID
    names = {check.name for check in run_of([sample()], tmp_path / "untold")["sums"].validity.checks}
    assert names == {"validity: missing share"}
    ungraded = run_of([sample(f"p{i}", None if i % 2 else 1.0) for i in range(40)], tmp_path / "ungraded")
    assert ungraded["sums"].validity.failure_codes == (ValidityCode.MISSING_GRADES,)


def test_notes_of_a_source_are_caveats_but_for_how_files_were_read(tmp_path: Path) -> None:
    source = replace(SOURCE, notes=(Note("filtered", "Groups without signal were left out."), Note("columns", "columns: id")))
    assert codes(run_of([sample()], tmp_path / "run", source)) >= {"filtered"}
    assert "columns" not in codes(run_of([sample()], tmp_path / "again", source))


def test_diagnosis_json_and_page_say_what_the_source_does_not_tell_in_one_place(tmp_path: Path) -> None:
    run = run_of([sample()], tmp_path / "run", replace(SOURCE, version="1.2", untold=frozenset({Untold.COMPLETENESS})))
    file = diagnosis_file(run)
    assert file.source is not None
    assert (file.source.format, file.source.model, file.source.version) == ("table", "m", "1.2")
    assert {one.code for one in file.source.untold} == set(Untold) - {Untold.PROBLEM_IDS, Untold.POLICY}
    assert all(one.words for one in file.source.untold)
    assert not file.behaviors[0].examples.right  # there is no text to read
    write_run(run)
    for page in (run.report_html, run.path / "report.md"):
        text = page.read_text()
        assert all(one.words in text for one in file.source.untold)
        assert text.count(file.source.not_measured) == 1


def test_an_imported_verifier_grades_no_other_text(tmp_path: Path) -> None:
    from posttrain.diagnose.verifiers.grader import Grader

    behavior = run_of([sample(text="4", prompt="2+2?")], tmp_path / "run")["sums"].behavior
    with pytest.raises(UserError) as caught:
        Grader(behavior).check_ready()
    assert caught.value.code == "imported_verifier"


AT_ZERO = replace(SOURCE, sampling=Sampling(temperature=0.0, max_tokens=0))


@pytest.mark.parametrize("num_samples", [1, 8])
def test_one_outcome_per_problem_at_temperature_0_names_no_stage(tmp_path: Path, num_samples: int) -> None:
    """What a greedy log lacks may be within reach of sampling or not: nothing in it tells."""
    (diagnosis,) = run_of(
        samples_of({f"p{i}": [float(i % 3 == 0)] * num_samples for i in range(60)}), tmp_path / "run", AT_ZERO
    ).diagnoses
    assert diagnosis.bottleneck is Bottleneck.INCONCLUSIVE
    assert diagnosis.stage is not None
    assert diagnosis.stage.name == "sample_more"
    right = run_of(samples_of({f"p{i}": [1.0] for i in range(200)}), tmp_path / "right", AT_ZERO)
    assert right.diagnoses[0].bottleneck is Bottleneck.MASTERED


def test_samples_at_temperature_0_are_greedy_ones_for_a_gate(tmp_path: Path) -> None:
    samples = samples_of({f"p{i}": [float(i % 2 == 0)] for i in range(60)})
    for source, met in ((AT_ZERO, Outcome.MET), (SAMPLED_PLAINLY, Outcome.INCONCLUSIVE)):
        run = run_of(samples, tmp_path / met, source)
        write_run(run)
        (found,) = gate(run.path, "greedy>=0.3").conditions
        assert found.check.outcome is met
    assert gate(run.path, "pass@1>=0.3") == gate(run.path, ["pass@1>=0.3"])


@pytest.mark.parametrize(
    ("model", "policy", "paths", "words"),
    [
        ("m", "", ["a"], "m"),
        ("m", "m", [], "m"),
        ("m", "20", ["a"], "m, step 20"),
        ("m", "tuned", [], "m tuned"),
        ("unknown", "20", ["rollouts"], "step 20 of rollouts (verl)"),
        ("unknown, step 7", "", ["a", "b", "c"], "step 7 of a, b, ... (verl)"),
        ("unknown", "tuned", ["a"], "tuned"),
        ("unknown", "", ["a"], "unnamed, of a (verl)"),
        ("unknown", "", [], "unnamed, of samples of verl"),
    ],
)
def test_a_model_that_no_file_names_is_called_after_its_files(model: str, policy: str, paths: list[str], words: str) -> None:
    assert model_words("verl", model, policy, paths) == words


def test_a_report_says_which_files_an_unnamed_model_is_of(tmp_path: Path) -> None:
    source = SampleSource(format="verl", model="unknown")
    run = run_of(spread(6, 4, 1, policy="20"), tmp_path / "run", source, step="20", paths=[tmp_path / "rollouts"])
    assert run.model["source"] == "step 20 of rollouts (verl)"
    page = diagnosis_page(diagnosis_file(run))
    assert "unknown" not in page["source"]["what"]
    assert not page["verdicts"][0]["meaning"].casefold().startswith(run.diagnoses[0].name)
