"""Problems made by reasoning-gym, each distinct problem once."""

from __future__ import annotations

import dataclasses
import json
import string
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from posttrain.diagnose.behaviors.problem_rows import Row
from posttrain.diagnose.behaviors.reasoning_gym_adapters import ADAPTERS, Adapter, Item
from posttrain.diagnose.behaviors.schema import GeneratorConfig
from posttrain.diagnose.behaviors.splits import normalise
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import closest, shorten, unknown
from posttrain.diagnose.types import Reference

ENTRY = "reasoning_gym"
"""Key of `Problem.metadata` under which the whole entry stands, for the verifier of that name."""

_DRAWS_PER_PROBLEM = 400
_PATIENCE = 8_000
"""Draws without a new problem after which the space counts as exhausted."""


def generate_rows(config: GeneratorConfig, *, shown: Collection[str], keep_entries: bool, where: str) -> tuple[Row, ...]:
    """Draw distinct problems.

    Entries are drawn by index from a fixed seed. A repeated problem (equal key) and a worked example are dropped, and drawing
    goes on until `size` problems are found or the space seems exhausted, so there may be fewer than `size`.

    Args:
        config: The `reasoning_gym:` part of a behavior.
        shown: Questions of the prompt's worked examples, which must not be measured.
        keep_entries: Whether each problem carries its whole entry, for the verifier `reasoning_gym`.
        where: The behavior, for error messages.

    Raises:
        BehaviorError: If the data set, a setting, a filter or a template field is unknown, or nothing is left.
    """
    where = f"{where}: reasoning_gym"
    adapter = ADAPTERS.get(config.dataset)
    _check_filters(config, adapter, where)
    _check_templates(config, adapter, where)
    worked_examples = {normalise(question) for question in shown}
    rows: list[Row] = []
    seen: set[str | None] = set()
    idle = 0
    for entry in _draw(config, max(_PATIENCE, _DRAWS_PER_PROBLEM * config.size), where):
        idle += 1
        if idle > _PATIENCE:
            break
        row, same_questions = _read(entry, config, adapter)
        if row is None or row.key in seen or any(normalise(question) in worked_examples for question in same_questions):
            continue
        idle = 0
        seen.add(row.key)
        rows.append(row._replace(metadata=_metadata(entry, config, keep_entries, where)))
        if len(rows) == config.size:
            break
    if not rows:
        raise BehaviorError(
            f"{where}: no entry of {_PATIENCE} can be used; loosen `where` or the settings of {config.dataset}",
            code="no_usable_entries",
        )
    return tuple(rows)


def _draw(config: GeneratorConfig, num_draws: int, where: str) -> Iterator[Mapping[str, Any]]:
    """Return the entries 0, 1, 2, … of the data set."""
    from reasoning_gym.factory import DATASETS, create_dataset  # slow to import: only for those who use it

    if config.dataset not in DATASETS:
        known = f"{len(DATASETS)} data sets, among them {', '.join(sorted(ADAPTERS))}"
        raise BehaviorError(
            f"{where}: unknown dataset {config.dataset!r}{closest(config.dataset, DATASETS)}; allowed: {known}",
            code="unknown_dataset",
        )
    allowed = [field.name for field in dataclasses.fields(DATASETS[config.dataset][1])]
    for key in config.settings:
        if key not in allowed:
            own = [name for name in GeneratorConfig.model_fields if name not in allowed]
            raise BehaviorError(f"{where}: {unknown('key', str(key), own + allowed)}", code="unknown_key")
    try:
        # The size of a procedural data set is virtual, but some refuse indices past it.
        dataset = create_dataset(config.dataset, **{**config.settings, "seed": config.seed, "size": num_draws})
    except (AssertionError, TypeError, ValueError, OSError) as error:
        raise BehaviorError(
            f"{where}: {config.dataset} refuses its settings {shorten(config.settings)}: {error}", code="refused_settings"
        ) from None
    for index in range(num_draws):
        try:
            yield dataset[index]
        except (IndexError, StopIteration):
            return


def _read(entry: Mapping[str, Any], config: GeneratorConfig, adapter: Adapter | None) -> tuple[Row | None, tuple[str, ...]]:
    """Read an entry as a row (None where it is filtered out), and the question in all the ways it may be written."""
    if adapter is None:
        return _read_unknown(entry, config)
    item = adapter.read(entry)
    if item is None or not all(adapter.filters[name](item.fields, value) for name, value in config.where.items()):
        return None, ()
    template = config.question or adapter.question
    questions = tuple(template.format_map(fields) for fields in (item.fields, *item.twins))
    answer = item.answer if config.answer is None else config.answer.format_map(item.fields)
    row = Row(id=item.key, key=item.key, prompt=questions[0], answer=answer, references=_references(item, config))
    return row, questions


def _read_unknown(entry: Mapping[str, Any], config: GeneratorConfig) -> tuple[Row | None, tuple[str, ...]]:
    """Return an entry of a data set without adapter: its own question is its key."""
    question, answer = str(entry["question"]), entry["answer"]
    if answer is None or not str(answer).strip():
        return None, ()
    shown = question if config.question is None else config.question.format_map({"question": question})
    name = f"{config.dataset}-{entry['metadata'].get('source_index')}"
    return Row(id=name, key=normalise(question), prompt=shown, answer=str(answer)), (shown,)


def _references(item: Item, config: GeneratorConfig) -> tuple[Reference, ...]:
    if isinstance(config.references, tuple):
        return (Reference(steps=tuple(step.format_map(item.fields) for step in config.references)),)
    # A path leads to the data set's own answer, not to another one that a template asks for.
    own_answer = config.answer is None
    return (Reference(steps=item.steps),) if config.references and item.steps and own_answer else ()


def _metadata(entry: Mapping[str, Any], config: GeneratorConfig, keep_entries: bool, where: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"source_index": entry["metadata"].get("source_index")}
    if keep_entries:
        try:
            metadata[ENTRY] = json.loads(json.dumps(entry))
        except (TypeError, ValueError) as error:
            raise BehaviorError(
                f"{where}: entries of {config.dataset} cannot be written as JSON ({error}), which the verifier reasoning_gym"
                " needs; choose another data set, or the verifier exact",
                code="entry_not_json",
            ) from None
    return metadata


def _check_filters(config: GeneratorConfig, adapter: Adapter | None, where: str) -> None:
    if not config.where:
        return
    if adapter is None:
        raise BehaviorError(
            f"{where}.where: {config.dataset} has no filters; those of {', '.join(sorted(ADAPTERS))} do", code="no_filters"
        )
    for name, value in config.where.items():
        if name not in adapter.filters:
            raise BehaviorError(
                f"{where}.where: {unknown(f'filter of {config.dataset}', name, adapter.filters)}", code="unknown_filter"
            )
        if isinstance(value, str) and name.startswith(("min_", "max_")):
            raise BehaviorError(f"{where}.where.{name}: got {value!r}; allowed: a number", code="invalid_filter")


def _check_templates(config: GeneratorConfig, adapter: Adapter | None, where: str) -> None:
    steps = config.references if isinstance(config.references, tuple) else ()
    allowed = ("question",) if adapter is None else adapter.fields
    if adapter is None and (steps or config.answer is not None):
        raise BehaviorError(
            f"{where}: {config.dataset} offers no fields for templates of answers and references; remove them",
            code="no_template_fields",
        )
    for name, template in [("question", config.question), ("answer", config.answer), *(("references", step) for step in steps)]:
        if template is None:
            continue
        try:
            used = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        except ValueError as error:
            raise BehaviorError(
                f"{where}.{name}: got {template!r}: {error}; write {{{{ and }}}} for braces themselves", code="invalid_template"
            ) from None
        for field in used:
            if field not in allowed:
                raise BehaviorError(f"{where}.{name}: {unknown('template field', field, allowed)}", code="unknown_field")
