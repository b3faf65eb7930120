"""Which precision is taken on which hardware."""

from __future__ import annotations

import pytest
import torch

from posttrain.diagnose.engines.hardware import pick_training_dtype
from posttrain.diagnose.errors import SettingsError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.float32),
        ({"avx2": True}, torch.float32),
        ({"bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_a_processor_trains_in_bfloat16_only_with_units_for_matrices(capabilities: dict[str, bool], dtype: torch.dtype) -> None:
    assert pick_training_dtype("auto", CPU, capabilities) is dtype
    assert pick_training_dtype("auto", CPU) in (torch.bfloat16, torch.float32)


def test_a_dtype_that_is_given_wins_and_an_unknown_one_is_refused() -> None:
    assert pick_training_dtype("bfloat16", CPU, {}) is torch.bfloat16
    assert pick_training_dtype("float32", CPU, {"amx_bf16": True}) is torch.float32
    with pytest.raises(SettingsError) as refused:
        pick_training_dtype("float8", CPU)
    assert refused.value.code == "unknown_dtype"
