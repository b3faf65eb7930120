"""Packing of rows that share a prompt behind one copy of it, and of packs into micro-batches under a token budget.

A pack is one model input `[prompt, completion 1, completion 2, …]`. Positions start again after the prompt for every
completion, and a completion token sees the prompt and its own completion only, so every token gets exactly the log-probability
that it has alone, while the prompt is computed once. The last token of a completion predicts nothing and is left out of the
input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from posttrain.trainers.training_types import TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPack:
    """Rows behind one prompt."""

    prompt_ids: tuple[int, ...]
    rows: tuple[int, ...]
    """Indices into the batch."""
    completions: tuple[tuple[int, ...], ...]
    group_id: str = ""
    """Packs of one named group run in one micro-batch; empty for rows that can run alone."""

    @property
    def length(self) -> int:
        """Input tokens."""
        return len(self.prompt_ids) + sum(len(ids) - 1 for ids in self.completions)


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Inputs of one forward pass over B packs, padded on the right to S tokens, and where its N completion tokens come from."""

    rows: tuple[int, ...]
    """Rows in the order of their tokens among the N."""
    lengths: tuple[int, ...]
    """[rows] completion tokens of each."""
    input_ids: Tensor
    """[B, S]"""
    position_ids: Tensor
    """[B, S]"""
    segments: Tensor
    """[B, S] 0 in a prompt, 1, 2, … in its completions, −1 in padding."""
    predictors: Tensor
    """[N] index into B·S of the token whose hidden state predicts completion token n."""
    targets: Tensor
    """[N] the completion tokens."""

    @property
    def shared(self) -> bool:
        """Whether some prompt stands before several completions, so that the attention mask is not simply causal."""
        return bool(self.segments.max() > 1)

    @property
    def num_input_tokens(self) -> int:
        """Tokens that run through the model, padding left out."""
        return int((self.segments >= 0).sum())

    def to(self, device: torch.device) -> MicroBatch:
        """Return a copy on another device."""
        moved: dict[str, Any] = {
            each.name: value.to(device) for each in fields(self) if isinstance(value := getattr(self, each.name), Tensor)
        }
        return replace(self, **moved)


def attention_mask(segments: Tensor) -> Tensor:
    """Return [B, 1, S, S] bool, True where query i may attend to key j.

    Padding queries attend to themselves and the prompt, so that no softmax is empty; nothing is ever predicted from them.
    """
    num_positions = segments.shape[1]
    causal = torch.ones(num_positions, num_positions, dtype=torch.bool, device=segments.device).tril()
    same = segments[:, :, None] == segments[:, None, :]
    prompt = (segments == 0)[:, None, :]
    return ((same | prompt) & causal)[:, None]


def pack_rows(
    rows: Sequence[TrainingRow],
    indices: Sequence[int],
    *,
    share: bool,
    hidden_size: int,
    max_tokens: int,
    keep_groups: bool = False,
) -> list[RowPack]:
    """Pack the chosen rows, in their order.

    Args:
        rows: The batch.
        indices: Which of them to run.
        share: Whether rows of one prompt may stand in one pack.
        hidden_size: Width H of the model; decides when attention across a long pack costs more than repeating the prompt.
        max_tokens: Longest pack that sharing may make.
        keep_groups: Whether a pack may hold rows of one group only, so that groups can be kept together.
    """
    by_prompt: dict[tuple[tuple[int, ...], str], list[int]] = {}
    for index in indices:
        by_prompt.setdefault((rows[index].prompt_ids, rows[index].group_id if keep_groups else ""), []).append(index)
    packs = []
    for (prompt_ids, group_id), members in by_prompt.items():
        longest = max(len(rows[index].completion_ids) for index in members)
        size = _pack_size(len(prompt_ids), longest, len(members), hidden_size, max_tokens) if share else 1
        for start in range(0, len(members), size):
            part = tuple(members[start : start + size])
            completions = tuple(rows[index].completion_ids for index in part)
            packs.append(RowPack(prompt_ids=prompt_ids, rows=part, completions=completions, group_id=group_id))
    return packs


def _pack_size(prompt: int, completion: int, num_rows: int, hidden_size: int, max_tokens: int) -> int:
    """Return how many completions to put behind one prompt for the least work.

    Per layer an input of S tokens costs about 24·H²·S in the matrices and 4·H·S² in attention, which a dense mask does not save.
    """
    best, best_cost = 1, float("inf")
    for num_packs in range(1, num_rows + 1):
        size = -(-num_rows // num_packs)
        length = prompt + size * (completion - 1)
        cost = num_packs * length * (6 * hidden_size + length)
        if cost < best_cost and (length <= max_tokens or size == 1):
            best, best_cost = size, cost
    return best


def plan_micro_batches(packs: Sequence[RowPack], max_tokens: int) -> list[list[RowPack]]:
    """Group packs so that padded inputs stay within a token budget; a pack (or a named group) above the budget goes alone.

    Packs are sorted by length, so that little is padded, the longest first, so that memory runs out at once or never.
    """
    groups: list[list[RowPack]] = []
    for unit in _units(packs):
        width = max(pack.length for pack in [*unit, *(groups[-1] if groups else [])])
        if groups and (len(groups[-1]) + len(unit)) * width <= max_tokens:
            groups[-1].extend(unit)
        else:
            groups.append(list(unit))
    return groups


def plan_process_batches(packs: Sequence[RowPack], max_tokens: int, *, rank: int, size: int) -> list[tuple[list[RowPack], bool]]:
    """Return the micro-batches of one of several processes: about equally many tokens for each, and equally many micro-batches.

    Args:
        packs: Of the whole batch.
        max_tokens: As for `plan_micro_batches`.
        rank: Which process.
        size: How many there are.

    Returns:
        (packs, whether they count): a process with fewer micro-batches than another runs a small one again, which counts for nothing, so that
        all of them are in step.
    """
    plans = [plan_micro_batches(part, max_tokens) for part in _divide(packs, size)]
    smallest = min((group for plan in plans for group in plan), key=lambda group: sum(pack.length for pack in group), default=[])
    missing = max(map(len, plans)) - len(plans[rank])
    return [(group, True) for group in plans[rank]] + [(smallest, False)] * missing


def heaviest_load(packs: Sequence[RowPack], size: int) -> int:
    """Return the input tokens of the one of `size` processes that gets the most."""
    return max(sum(pack.length for pack in part) for part in _divide(packs, size))


def _divide(packs: Sequence[RowPack], size: int) -> list[list[RowPack]]:
    parts: list[list[RowPack]] = [[] for _ in range(size)]
    tokens = [0] * size
    for unit in _units(packs):
        lightest = tokens.index(min(tokens))
        parts[lightest] += unit
        tokens[lightest] += sum(pack.length for pack in unit)
    return parts


def _units(packs: Sequence[RowPack]) -> list[list[RowPack]]:
    """Return lists of packs that must run together, the longest first."""
    units: dict[str, list[RowPack]] = {}
    for number, pack in enumerate(packs):
        units.setdefault(pack.group_id or f"#{number}", []).append(pack)
    return sorted(units.values(), key=lambda unit: max(pack.length for pack in unit), reverse=True)


def collate(packs: Sequence[RowPack]) -> MicroBatch:
    """Lay packs out as padded tensors."""
    width = max(pack.length for pack in packs)
    input_ids = torch.zeros(len(packs), width, dtype=torch.long)
    position_ids = torch.zeros(len(packs), width, dtype=torch.long)
    segments = torch.full((len(packs), width), -1, dtype=torch.long)
    predictors: list[int] = []
    targets: list[int] = []
    for number, pack in enumerate(packs):
        prompt = len(pack.prompt_ids)
        ids, positions, members = list(pack.prompt_ids), list(range(prompt)), [0] * prompt
        for segment, completion in enumerate(pack.completions, start=1):
            predictors.append(number * width + prompt - 1)
            predictors.extend(range(number * width + len(ids), number * width + len(ids) + len(completion) - 1))
            targets.extend(completion)
            ids.extend(completion[:-1])
            positions.extend(range(prompt, prompt + len(completion) - 1))
            members.extend([segment] * (len(completion) - 1))
        input_ids[number, : len(ids)] = torch.tensor(ids)
        position_ids[number, : len(ids)] = torch.tensor(positions)
        segments[number, : len(ids)] = torch.tensor(members)
    return MicroBatch(
        rows=tuple(index for pack in packs for index in pack.rows),
        lengths=tuple(len(completion) for pack in packs for completion in pack.completions),
        input_ids=input_ids,
        position_ids=position_ids,
        segments=segments,
        predictors=torch.tensor(predictors),
        targets=torch.tensor(targets),
    )
