"""What `posttrain check --train` prints, in words."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.trainers.data.row_check import LearnedToken, RowCheckFile, RowWarning, RowWarningEntry

_WORDS = {
    RowWarning.END_NOT_LEARNED: "do not end with a learned end of turn, so that the model does not learn to stop there",
    RowWarning.END_NOT_KNOWN: "end with a token that the model's generation settings do not name: other programs would sample on behind it; add its id to "
    "eos_token_id of generation_config.json",
    RowWarning.TOO_LONG: "are longer than the limit: refused in training unless too_long is drop or cut",
    RowWarning.NOTHING_LEFT: "have a prompt that fills the limit: cut, nothing of them would be learned",
    RowWarning.DUPLICATE_ROWS: "are the same as one before: they count as often as they stand there",
    RowWarning.LITTLE_LEARNED: "of the tokens are learned: are the answers where they should be?",
    RowWarning.NOTHING_LEARNED: "are prompts alone: nothing of the file is learned, a model answers them (grpo, seq_kd, ...)",
    RowWarning.TEMPLATE_PASSES_OVER: "are not read by the chat template",
    RowWarning.COLUMNS_PASSED_OVER: "are not used",
}
_UNITS = {
    RowWarning.LITTLE_LEARNED: "tokens", RowWarning.TEMPLATE_PASSES_OVER: "columns", RowWarning.COLUMNS_PASSED_OVER: "columns",
}  # fmt: skip


def row_check_lines(check: RowCheckFile) -> list[str]:
    """Return what a check found, line by line; the tokens of the shown row come from `token_line`."""
    lengths, end = check.lengths, check.end
    texts = f" ({check.num_texts} texts)" if check.num_texts not in (0, check.num_rows) else ""
    lines = [f"{check.source}: {check.num_rows} rows{texts} of kind {check.row_kind.value}, as {check.model} reads them"]
    if check.num_without_weight:
        lines.append(f"  {check.num_without_weight} rows have weight 0 and are left out")
    if end is None:
        return lines
    share = check.num_learned / check.num_tokens
    limit = f", {lengths.limit:,} allowed" if lengths.limit is not None else ""
    stops = ", ".join(map(repr, end.known))
    lines.append(f"  learned: {check.num_learned:,} of {check.num_tokens:,} tokens ({share:.0%})")
    lines.append(f"  a row has {lengths.median:,.0f} tokens in the middle, {lengths.max:,} the longest{limit}")
    lines.append(f"  end of turn: {end.token!r} is learned in {end.num_learned} of {check.num_texts}; the model stops at {stops}")
    return lines


def warning_lines(warnings: Sequence[RowWarningEntry]) -> list[str]:
    """Return a line for each warning."""
    return [f"warning: {_warning(one)}" for one in warnings] or ["no warnings"]


def _warning(one: RowWarningEntry) -> str:
    unit = _UNITS.get(one.code, "rows")
    if unit == "columns":
        return f"the columns {', '.join(one.examples)} {_WORDS[one.code]}"
    rows = f" (row {', '.join(one.examples)}{', …' if one.num > len(one.examples) else ''}, from 0)" if one.examples else ""
    return f"{one.num:,} of {one.of:,} {unit}{rows} {_WORDS[one.code]}"


def token_line(tokens: Sequence[LearnedToken], *, most: int = 400) -> list[tuple[str, bool]]:
    r"""Return tokens as parts of one line, each with whether it is learned; line breaks are written as \n.

    Tokens are divided by `|`; learned ones stand in `[ ]`.

    Args:
        tokens: Of one row.
        most: About how many are shown; of more, the beginning, what is learned first, and the end.
    """
    num = len(tokens)
    first = next((place for place, token in enumerate(tokens) if token.learned), num)
    kept = set(range(num))
    if num > most:
        kept = {*range(most // 8), *range(max(0, first - most // 8), min(num, first + most // 2)), *range(num - most // 8, num)}
    parts: list[tuple[str, bool]] = []
    places = sorted(kept)
    for place, before in zip(places, [-1, *places], strict=False):
        if place - before > 1:
            parts.append((f" … {place - before - 1} tokens … ", False))
        token, follows = tokens[place], place - before == 1 and place > 0
        opens = token.learned and not (follows and tokens[place - 1].learned)
        closes = token.learned and not (place + 1 in kept and tokens[place + 1].learned)
        written = token.text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
        parts.append(
            (f"{'|' if follows and not opens else ''}{'[' if opens else ''}{written}{']' if closes else ''}", token.learned)
        )
    return parts
