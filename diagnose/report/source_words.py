"""What a report says of imported samples: where they are from, what the source does not tell, and what no import can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain.diagnose.importing.imported import UNKNOWN_MODEL, Untold, model_words
from posttrain.diagnose.importing.source_facts import KEY
from posttrain.diagnose.report.text import visible
from posttrain.diagnose.storage.source_json import SourceEntry

UNTOLD: dict[Untold, str] = {
    Untold.TEXTS: "what the model wrote (of all samples or of some), so those can be neither read nor graded again",
    Untold.PROMPTS: "the prompts",
    Untold.ANSWERS: "the right answers",
    Untold.PROBLEM_IDS: "ids of problems: samples are grouped by prompt and answer, and two problems with one text count as one",
    Untold.LOGPROBS: "log-probabilities of tokens",
    Untold.STOP_REASONS: "why samples ended: a truncated sample looks like a wrong one",
    Untold.TOKEN_COUNTS: "how long samples are",
    Untold.SAMPLING: "how they were sampled (temperature, truncation): a missing success says nothing about support",
    Untold.COMPLETENESS: "whether samples were left out, which would shift success rates",
    Untold.POLICY: "which model or training step each sample is of",
}
CANNOT = (
    "Not measured, because it takes an engine: greedy samples, the likelihood of reference paths, prefix ladders and other probes, the agreement of "
    "sampler and scorer, further rounds of samples. So guided only, scaffold bound, attrition, decoding and format cannot be told apart from what "
    "the grades alone show."
)


def source_entry(settings: Mapping[str, Any]) -> SourceEntry | None:
    """Return what diagnosis.json says of imported samples; None where the run sampled itself."""
    source = settings.get(KEY)
    if not isinstance(source, Mapping):
        return None
    untold = [{"code": name, "words": UNTOLD[name]} for name in Untold if name in source.get("untold", ())]
    return SourceEntry.model_validate({**source, "untold": untold, "not_measured": CANNOT})


def source_view(source: SourceEntry | None) -> dict[str, Any] | None:
    """Return what a page says of imported samples; None where there are none."""
    if source is None:
        return None
    unnamed = source.model.partition(",")[0] in ("", UNKNOWN_MODEL)
    model = "the files name no model" if unnamed else f"model {model_words(source.format, source.model, source.policy)}"
    if unnamed and (step := source.policy or source.model.partition(", step ")[2]):
        model += f", step {step}"
    named = f"Imported as {source.format}" + (f" {source.version}" if source.version else "")
    return {
        "what": visible(f"{named}, {model}: samples and grades are those of the source."),
        "untold": [one.words for one in source.untold],
        "not_measured": source.not_measured,
        "notes": [visible(note.text) for note in source.notes],
    }
