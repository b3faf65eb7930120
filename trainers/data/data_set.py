"""Rows of a data set as training rows: demonstrations, chats, pairs, labelled answers, labelled steps, and prompts alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

from posttrain.diagnose.behaviors.data_sets import DataRow, RowKind, read_training_rows
from posttrain.diagnose.behaviors.row_sources import RowSource, fingerprint_row_source, row_source_name
from posttrain.diagnose.engines.base import Codec, EncodedPrompt, Engine
from posttrain.diagnose.engines.codec import TextCodec, chat_messages, completion_text
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, Message, Problem, PromptFormat, Reference, Split
from posttrain.trainers.data.cache import cached_rows, fingerprint_tokenizer
from posttrain.trainers.data.chats import ChatRenderer, ChatRow, RenderedChat
from posttrain.trainers.data.encoder import EncodedExample, PlainText, encode
from posttrain.trainers.data.measured import refuse_measured
from posttrain.trainers.training_types import Material, RowRole, TrainingProblem, TrainingRow

NUM_KEPT = 256
"""Rows from which on their tokens are kept on disk; fewer are tokenised sooner than the file is found."""
_BATCH = 64
"""Answers that are rendered in one exchange."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """Hold what a file or a data set offers, tokenised."""

    rows: tuple[TrainingRow, ...]
    prompts: tuple[TrainingProblem, ...]
    """Prompts alone, as problems that are not graded."""
    fingerprint: str
    """SHA-256 of its content."""
    unread: frozenset[str] = frozenset()
    """Columns that the chat template does not read, such as `tools`: its model is shown nothing of them."""
    passed_over: frozenset[str] = frozenset()
    """Columns that hold something and belong to no shape of rows that the stage learns from, such as `id`."""
    num_without_weight: int = 0
    """Rows of weight 0, which are left out."""
    weights: tuple[float, float] = (1.0, 1.0)
    """The smallest and the largest weight of the other rows."""


_KINDS = {
    Material.DEMONSTRATIONS: frozenset({RowKind.DEMONSTRATION, RowKind.TEXT}),
    Material.PAIRS: frozenset({RowKind.PAIR}),
    Material.LABELS: frozenset({RowKind.LABELLED}),
    Material.STEPS: frozenset({RowKind.STEPS}),
    Material.PROMPTS: frozenset({RowKind.PROMPT}),
}
"""Which rows of a file offer a material."""
_NO_TEMPLATE = "got a chat of several turns, tools, or reasoning, and no chat template writes it; give a model that has one, or prompt.format: auto"


def read_data(
    source: RowSource, engine: Engine, behaviors: Sequence[Behavior], reads: frozenset[Material] = frozenset()
) -> DataSet:
    """Read rows of TRL's data set types and tokenise it as the behaviors' prompts are.

    Args:
        source: A file or a data set; see `posttrain.diagnose.behaviors.data_sets`.
        engine: Its tokenizer and chat template write the prompts.
        behaviors: At least one. What is measured; a data row with the prompt of a measured problem is refused. The first one's prompt format
            writes prompts, and its sampling settings say how long an answer to a prompt alone may be.
        reads: What the stage learns from. Rows whose columns allow several shapes are read as one of these; see `read_training_rows`.

    Raises:
        BehaviorError: It cannot be read, a row has none of the shapes, or the model cannot read it.
        MeasuredProblemError: A row has the prompt of a problem that is kept for measuring.
    """
    given, source, name = source, str(source), row_source_name(source)
    rows = read_training_rows(given, frozenset[RowKind]().union(*(_KINDS.get(material, ()) for material in reads)))
    refuse_measured(rows, behaviors, source)
    weighted = tuple(row for row in rows if row.weight > 0)
    if not weighted:
        raise BehaviorError(
            f"--data {source}: all {len(rows)} rows have weight 0, so there is nothing to learn; give some a positive weight",
            code="no_row_left",
        )
    num_without_weight, rows = len(rows) - len(weighted), weighted
    prompt_format = PromptFormat(format=behaviors[0].prompt.format)
    fingerprint = fingerprint_row_source(given)

    def make() -> list[TrainingRow]:
        return _encode(rows, engine, prompt_format, source)

    codec = engine.codec
    if isinstance(codec, TextCodec) and len(rows) >= NUM_KEPT and rows[0].kind is not RowKind.PROMPT:
        tokenizer = fingerprint_tokenizer(codec.tokenizer)
        encoded = cached_rows((fingerprint, name, rows[0].kind, prompt_format, sorted(codec.eos_ids), tokenizer), make)
    else:
        encoded = tuple(make())
    return DataSet(
        rows=encoded,
        prompts=_problems(rows, behaviors[0], prompt_format, name),
        fingerprint=fingerprint,
        unread=_unread(rows, codec),
        passed_over=frozenset[str]().union(*(row.passed_over for row in rows)),
        num_without_weight=num_without_weight,
        weights=(min(row.weight for row in rows), max(row.weight for row in rows)),
    )


def _unread(rows: Sequence[DataRow], codec: Codec) -> frozenset[str]:
    """Return the columns for the chat template that it does not read; all of them where there is none."""
    template = codec.template if isinstance(codec, TextCodec) else None
    names = {("tools", "tools") for row in rows if row.tools}
    names |= {(f"chat_template_kwargs.{key}", key) for row in rows for key in row.template_arguments}
    return frozenset(column for column, name in names if template is None or not template.reads(name, ({},)))


def _problems(rows: Sequence[DataRow], like: Behavior, prompt_format: PromptFormat, name: str) -> tuple[TrainingProblem, ...]:
    """Return rows of prompts alone as train problems of a behavior of their own, sampled like another one."""
    prompts = [(row, row.prompt) for row in rows if row.kind is RowKind.PROMPT and row.prompt is not None]
    problems = tuple(
        Problem(id=f"row{row.index}", prompt=prompt, answer="", key=f"row{row.index}", split=Split.TRAIN)
        for row, prompt in prompts
    )
    behavior = replace(like, name=f"data:{name}", problems=problems, prompt=prompt_format, source="", fingerprint="")
    # A row with tools or template arguments of its own has a prompt format of its own
    formats = [row.format_of_prompt(prompt_format) for row, _ in prompts]
    behaviors = {written: replace(behavior, prompt=written) for written in {prompt_format, *formats}}
    return tuple(
        TrainingProblem(behavior=behaviors[written], problem=problem) for written, problem in zip(formats, problems, strict=True)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """One answer of a data row, or its whole chat, to be written."""

    row: DataRow
    role: RowRole
    item: PlainText | ChatRow


def _encode(rows: Sequence[DataRow], engine: Engine, prompt_format: PromptFormat, source: str) -> list[TrainingRow]:
    """Return what rows other than prompts alone hold, as tokens."""
    codec, name = engine.codec, row_source_name(source)
    made: list[TrainingRow] = []
    if isinstance(codec, TextCodec) and rows[0].kind not in (RowKind.PROMPT, RowKind.STEPS):
        writer = _Writer(codec, prompt_format)
        for batch in _one_ahead(_planned(rows, writer, source), writer):
            written: list[tuple[_Answer, PlainText | RenderedChat]] = []
            for answer in batch:
                with _naming(answer.row, source):
                    written += [(answer, item) for item in writer.write(answer)]
            encoded = zip(written, encode(codec, [item for _, item in written]), strict=True)
            made += [_row(answer.row, name, tokens, answer.role) for (answer, _), tokens in encoded]
        return made
    for row in rows:
        with _naming(row, source):
            if row.kind is RowKind.PROMPT:
                _encode_prompt(row, engine, prompt_format)  # so that one that cannot be written is refused now
            else:
                made += _encode_singly(row, engine, prompt_format, name)
    return made


def _planned(rows: Sequence[DataRow], writer: _Writer, source: str) -> Iterator[_Answer]:
    for row in rows:
        with _naming(row, source):
            answers = writer.plan(row)
        yield from answers


def _one_ahead(answers: Iterator[_Answer], writer: _Writer) -> Iterator[list[_Answer]]:
    """Yield answers in batches, each prefetched while the one before it is used; after a failure only when that has been used."""
    previous: list[_Answer] = []
    with ThreadPoolExecutor(max_workers=1) as thread:
        while batch := list(islice(answers, _BATCH)):
            is_whole = thread.submit(writer.prefetch, batch)
            yield previous
            previous = batch
            if not is_whole.result():
                yield batch
                previous = []
    yield previous


@contextmanager
def _naming(row: DataRow, source: str) -> Iterator[None]:
    """Name the row in what is refused."""
    try:
        yield
    except BehaviorError as error:
        raise BehaviorError(f"--data {source}: row {row.index} (from 0): {error}", code=error.code) from error


def _encode_prompt(row: DataRow, engine: Engine, prompt_format: PromptFormat) -> EncodedPrompt:
    """Return the prompt of a row as it is sampled behind.

    Raises:
        BehaviorError: It cannot be written, or it has tools and no chat template shows them.
    """
    assert row.prompt is not None
    codec = engine.codec
    if (row.tools or row.template_arguments) and isinstance(codec, TextCodec) and not codec.writes_chat(prompt_format):
        raise BehaviorError(_NO_TEMPLATE, code="no_chat_template")
    return codec.encode_prompt(row.prompt, row.format_of_prompt(prompt_format))


class _Writer:
    """Writes data rows as texts: chats by the template, where there is one and prompts are chats."""

    def __init__(self, codec: TextCodec, prompt_format: PromptFormat):
        self.codec, self._format = codec, prompt_format
        self._renderer = ChatRenderer(codec) if codec.writes_chat(prompt_format) else None

    def plan(self, row: DataRow) -> list[_Answer]:
        """Return the answers of a row.

        Raises:
            BehaviorError: They are chats, and no template writes them.
        """
        if row.kind is RowKind.TEXT:
            assert row.completion is not None
            return [_Answer(row=row, role=RowRole.DEMONSTRATION, item=PlainText(prompt="", completion=row.completion))]
        return [_Answer(row=row, role=role, item=self._plan_answer(row, key)) for role, key in _answers(row)]

    def prefetch(self, answers: Sequence[_Answer]) -> bool:
        """Render the chats of answers in one exchange; return whether the template failed on nothing."""
        chats = [answer.item for answer in answers if isinstance(answer.item, ChatRow)]
        return self._renderer is None or self._renderer.prefetch(chats)

    def write(self, answer: _Answer) -> Sequence[PlainText | RenderedChat]:
        """Return an answer as one text, or as one for each turn that is learned; see `ChatRenderer.render`."""
        if isinstance(answer.item, PlainText):
            return [answer.item]
        assert self._renderer is not None
        return self._renderer.render(answer.item)

    def _plan_answer(self, row: DataRow, key: str) -> PlainText | ChatRow:
        text = getattr(row, key)
        turns = row.turns.get(key) or (Message("assistant", text),)
        if self._renderer is None:
            if row.chat or key in row.turns or row.tools or row.template_arguments:
                raise BehaviorError(_NO_TEMPLATE, code="no_chat_template")
            assert row.prompt is not None
            return PlainText(prompt=completion_text(row.prompt, self._format), completion=text)
        if row.chat:
            learned = [i for i, turn in enumerate(row.chat) if i and turn.role == "assistant" and turn.train is not False]
            return self._chat(row, row.chat, learned)
        assert row.prompt is not None
        prompt = tuple(chat_messages(row.prompt, self._format))
        prefill = None
        if prompt[-1].role == "assistant" and not prompt[-1].extra and turns[0].role == "assistant":  # gone on with, not closed
            prefill = prompt[-1].content
            prompt, turns = prompt[:-1], (turns[0]._replace(content=prefill + turns[0].content), *turns[1:])
        learned = [len(prompt) + i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.train is not False] or [
            len(prompt) + len(turns) - 1
        ]
        return self._chat(row, (*prompt, *turns), learned, prefill)

    @staticmethod
    def _chat(row: DataRow, turns: tuple[Message, ...], learned: Sequence[int], prefill: str | None = None) -> ChatRow:
        return ChatRow(turns=turns, learned=tuple(learned), prefill=prefill, tools=row.tools, arguments=row.template_arguments)


def _answers(row: DataRow) -> list[tuple[RowRole, str]]:
    """Return the answers of a row: what each stands for, and the field that holds it."""
    if row.kind is RowKind.PAIR:
        return [(RowRole.CHOSEN, "chosen"), (RowRole.REJECTED, "rejected")]
    if row.kind is RowKind.LABELLED:
        return [(RowRole.CHOSEN if row.label else RowRole.REJECTED, "completion")]
    return [(RowRole.DEMONSTRATION, "completion")]


def _encode_singly(row: DataRow, engine: Engine, prompt_format: PromptFormat, name: str) -> list[TrainingRow]:
    """Return a row as an engine's own codec writes it, one answer after the other; of labelled steps, with where each of them ends.

    A step ends with the last token that holds no more than it; the end token belongs to none.
    """
    if row.kind is RowKind.TEXT:
        assert row.completion is not None
        ids = engine.codec.encode_prompt(row.completion, PromptFormat(format="completion")).token_ids
        ends = sorted(engine.codec.eos_ids)[:1]
        encoded = EncodedExample(prompt_ids=ids[:1], completion_ids=(*ids[1:], *ends), text=row.completion)
        return [_row(row, name, encoded, RowRole.DEMONSTRATION)]
    prompt = _encode_prompt(row, engine, prompt_format)
    found = []
    for role, key in [(RowRole.SAMPLE, "completion")] if row.kind is RowKind.STEPS else _answers(row):
        text = getattr(row, key)
        path = engine.codec.encode_path(prompt, Reference(steps=row.steps or (text,)))
        encoded = EncodedExample(prompt_ids=prompt.token_ids, completion_ids=path.token_ids, text=text)
        places = [
            max((place for place, step in enumerate(path.token_steps[:-1]) if step <= number), default=0)
            for number in range(len(row.steps))
        ]
        made = _row(row, name, encoded, role)
        found.append(replace(made, step_ends=tuple(places), step_scores=tuple(float(label) for label in row.labels)))
    return found


def _row(row: DataRow, name: str, written: EncodedExample, role: RowRole) -> TrainingRow:
    return TrainingRow(
        behavior=f"data:{name}",
        problem_id=f"row{row.index}",
        split=Split.TRAIN,
        group_id=f"{name}#{row.index}",
        prompt_ids=written.prompt_ids,
        completion_ids=written.completion_ids,
        token_weights=written.token_weights,
        weight=row.weight,
        margin=row.margin,
        role=role,
        text=written.text,
    )


def materials(rows: Sequence[TrainingRow], prompts: Sequence[TrainingProblem]) -> frozenset[Material]:
    """Return what rows and prompts offer."""
    found = {Material.PROMPTS} if prompts else set()
    sides: dict[str, set[RowRole]] = {}
    for row in rows:
        if row.role is RowRole.DEMONSTRATION:
            found.add(Material.DEMONSTRATIONS)
        elif row.role is RowRole.SAMPLE:
            found.add(Material.STEPS if row.step_ends else Material.SAMPLES)
        else:
            sides.setdefault(row.group_id, set()).add(row.role)
    return frozenset(found | {Material.PAIRS if len(roles) == 2 else Material.LABELS for roles in sides.values()})
