"""The words of `posttrain check MODEL`."""

from __future__ import annotations

from posttrain.analysis.number_format import format_number, format_probability
from posttrain.diagnose.report.text import visible
from posttrain.diagnose.storage.model_check_json import ModelCheckFile, ModelWarning

_WORDS: dict[ModelWarning, str] = {
    ModelWarning.NO_TEMPLATE: "the tokenizer has no chat template, so questions are texts to be continued; give the model its template if it was trained on chats",
    ModelWarning.BEGIN_TWICE: "the chat template writes {example}, and the tokenizer adds another one to a text: who encodes a written prompt must leave special tokens "
    "out (`add_special_tokens=False`), as is done here",
    ModelWarning.PAD_ENDS: "the padding token is {example}, which ends an answer: a trainer that leaves padding out of the loss never trains the end of an answer; give "
    "padding a token of its own",
    ModelWarning.NO_TURN_END: "the chat template writes no end token behind an answer, so nothing teaches the model to stop; have the template write {example}",
    ModelWarning.TURN_END_UNKNOWN: "the chat template ends an answer with {example}, which the model's generation settings do not stop at; add it to eos_token_id in "
    "generation_config.json, or other tools go on behind it",
    ModelWarning.END_UNLIKELY: "behind a right answer the model ends with probability {example}; samples will run into max_tokens. Train with the end of the answer in the "
    "loss, or end samples by a text, `sampling: {{stop: [...]}}`",
    ModelWarning.OTHER_END: "the model ends a right answer with {example}, not with what its chat template writes: the template's token was not trained; put it into the loss",
    ModelWarning.ADAPTER_UNUSED: "{example} of the adapter's tensors belong to no module of its base: this is another base than it was trained on, or its names have changed",
    ModelWarning.ADAPTER_NO_EFFECT: "the adapter changes no output: it is untrained (all of its B matrices are zero), or it is not applied",
    ModelWarning.MERGED_DIFFERS: "merged into its base the adapter does something else than beside it ({example} nats): merge in float32, or serve it unmerged",
    ModelWarning.SERVED_DIFFERS: "the server gives the same answers other probabilities ({example} nats): it serves another model, another template or leaves the adapter out",
}


def model_warning_words(code: ModelWarning, example: str = "") -> str:
    """Return one line about a warning; `example` is what it names."""
    return _WORDS[code].format(example=example)


def model_check_lines(check: ModelCheckFile, *, prompt_characters: int = 1200) -> list[str]:
    """Return what a check found, line by line.

    Args:
        check: The result.
        prompt_characters: Of the prompt that is shown.
    """
    text = visible(check.prompt)[:prompt_characters]
    ends = ", ".join(
        f"{visible(one.token)!r}{', of the template,' if one.ends_turns else ''} {format_probability(one.probability)}"
        for one in check.ends
    )
    lines = [
        f"{check.model}: {'a chat template' if check.has_template else 'no chat template'}; begins with {check.begin!r}, pads with {check.pad!r}",
        "prompt as the model reads it:",
        *(f"  | {line}" for line in text.split("\n")),
        f"end of a right answer, median of {len(check.answers)}: probability {format_probability(check.end_probability)} ({ends})",
        *(
            f"  {visible(one.answer)!r}: {format_number(one.nats_per_token)} nats per token, then ends with {format_probability(one.end_probability)}"
            for one in check.answers
        ),
    ]
    if (adapter := check.adapter) is not None:
        lines.append(
            f"adapter on {adapter.base}: {adapter.num_tensors} tensors, {adapter.num_unused} of them unused; changes the base by {adapter.kl:.3g} nats per "
            f"token (largest change {adapter.largest_change:.3g}); merged against unmerged {adapter.merged_gap:.3g} (largest {adapter.largest_merged_gap:.3g})"
        )
    if (served := check.served) is not None:
        lines.append(
            f"served by {served.engine}: answers differ by {served.mean_gap:.3g} nats on average, {served.largest_gap:.3g} at most"
        )
    return [*lines, *([f"warning: {one.words}" for one in check.warnings] or ["no warnings"])]
