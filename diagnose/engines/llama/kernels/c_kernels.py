"""The kernels in C (llama.c, amx_attention.c), for bfloat16 or float32 on a processor. Hidden states are summed in fp32 from layer to layer."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch

from posttrain.diagnose.engines.llama.kernels.amx_attention import AmxAttention
from posttrain.diagnose.engines.llama.kernels.c_arguments import float32, heads_pointer, int64, pointer
from posttrain.diagnose.engines.llama.kernels.compiler import load_library
from posttrain.diagnose.engines.llama.kernels.torch_kernels import Kernels, Rotation
from posttrain.diagnose.engines.llama.packs import Pack, PackAttention
from posttrain.diagnose.engines.llama.weights import LayerWeights, RmsNorm
from posttrain.diagnose.engines.token_sampling import Picked
from posttrain.diagnose.engines.token_scoring import VocabularyScores
from posttrain.diagnose.types import Sampling

_SOURCE = Path(__file__).with_name("llama.c")
_FLAGS: dict[torch.dtype, tuple[str, ...]] = {torch.bfloat16: (), torch.float32: ("-DNUMBERS_ARE_FLOATS",)}
WIDTHS = 16
"""Widths must be multiples of it: of what any processor's registers hold."""


@dataclass(frozen=True, slots=True)
class SlotStep:
    """What one decoding step of R samples attends to; the same for every layer.

    Args:
        rotation: Cosine and sine [R, D] fp32 of the new tokens' positions.
        scaling: Of the queries.
        own_keys: [layers, slots, K, columns, D] of the samples; those of the new tokens are appended.
        own_values: The same.
        slots: [R] int64: the slot of each row.
        num_written: [R] int64: how many tokens each row has written.
        prompt_keys: [R] int64: address of the keys of each row's prompt.
        prompt_values: [R] int64: address of its values.
        prompt_lengths: [R] int64.
    """

    rotation: Rotation
    scaling: float
    own_keys: torch.Tensor
    own_values: torch.Tensor
    slots: torch.Tensor
    num_written: torch.Tensor
    prompt_keys: torch.Tensor
    prompt_values: torch.Tensor
    prompt_lengths: torch.Tensor


class CKernels(Kernels):
    """The functions in C; what they do not compute is left to torch."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype, amx_attention: AmxAttention | None):
        """Take the functions of llama.c for a dtype, and the attention on AMX tiles where this processor and the model have what it needs."""
        super().__init__()
        self._library, self._dtype, self._amx_attention = library, dtype, amx_attention
        self.lanes = int(library.lanes())
        """Tokens that lie together in the layout of keys: 4, 8 or 16, as many as a register of the processor holds."""

    def to_hidden(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, C] in fp32."""
        return embeddings.float()

    def add_and_norm(self, hidden: torch.Tensor, delta: torch.Tensor | None, norm: RmsNorm) -> torch.Tensor:
        """Add to fp32 hidden states [N, C] in place and return them normalised, in the kernels' dtype; see `Kernels`."""
        y = torch.empty(hidden.shape, dtype=self._dtype)
        sizes = map(int64, hidden.shape)
        self._library.add_and_norm(
            *sizes, pointer(hidden), pointer(delta), pointer(norm.value), float32(norm.epsilon), pointer(y)
        )
        return y

    def gate(self, layer: LayerWeights, x: torch.Tensor) -> torch.Tensor:
        """Compute the gated values; see `Kernels`."""
        return self.gate_joined(layer.gate_up.joined(x))

    def gate_joined(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        """Return silu(gate) · up [N, I] of the two side by side [N, 2 I]."""
        num_rows, width = gate_and_up.shape[0], gate_and_up.shape[1] // 2
        y = torch.empty(num_rows, width, dtype=self._dtype)
        self._library.gate(int64(num_rows), int64(width), pointer(gate_and_up), pointer(y))
        return y

    def prepare_rotation(self, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype) -> Rotation:
        """Return cosines and sines as they are: rotation is in fp32."""
        return cos, sin

    def rotate(self, heads: torch.Tensor, rotation: Rotation, norm: RmsNorm | None, scaling: float) -> torch.Tensor:
        """Normalise, rotate and scale heads; see `Kernels`."""
        weight, epsilon = (None, 0.0) if norm is None else (norm.value, norm.epsilon)
        y = torch.empty(heads.shape, dtype=self._dtype)
        self._library.rotate_heads(
            *map(int64, heads.shape), *heads_pointer(heads), *map(pointer, rotation), pointer(weight),
            float32(epsilon), float32(scaling), pointer(y),
        )  # fmt: skip
        return y

    def prepare_attention(self, pack: Pack, group: int, dtype: torch.dtype, device: torch.device) -> PackAttention:
        """Attend on AMX tiles where this processor has them, all sequences in one call; see `Kernels`."""
        if self._amx_attention is None:
            return super().prepare_attention(pack, group, dtype, device)
        return self._amx_attention.of_pack(pack)

    def score_tokens(self, logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> VocabularyScores:
        """Score tokens under logits of the kernels' dtype; see `Kernels`."""
        rows, tokens = rows.contiguous(), tokens.contiguous()
        logprob, mass, top = torch.empty(3, len(tokens)).unbind()
        rank = torch.empty(len(tokens), dtype=torch.int32)
        self._library.score_tokens(
            int64(len(tokens)), int64(logits.shape[1]), *map(pointer, (logits, rows, tokens, logprob, rank, mass, top))
        )
        return VocabularyScores(logprob, rank, mass, top)

    def pick_tokens(self, logits: torch.Tensor, sampling: Sampling, u: torch.Tensor, seen: torch.Tensor | None) -> Picked:
        """Sample tokens of logits of the kernels' dtype, by inversion in C where the sampler keeps all tokens; see `Kernels`."""
        if not sampling.keeps_all:
            return super().pick_tokens(logits, sampling, u, seen)
        logits = logits.contiguous()
        ids = torch.empty(len(logits), dtype=torch.long)
        policy, sampler = torch.empty(2, len(logits)).unbind()
        failed = self._library.pick_tokens(
            *map(int64, logits.shape),
            pointer(logits),
            pointer(u),
            float32(sampling.temperature),
            *map(pointer, (ids, policy, sampler)),
        )
        if failed:
            raise MemoryError("pick_tokens: no memory for the sums of blocks")
        return ids, policy, sampler

    def attend(self, layer: int, qkv: torch.Tensor, norms: tuple[RmsNorm | None, RmsNorm | None], step: SlotStep) -> torch.Tensor:
        """Append the new keys and values of one layer and return its attention [R, H · D].

        Args:
            layer: Its number.
            qkv: [R, (H + 2 K) · D], before rotation.
            norms: Of the heads of queries and keys, where the model has them.
            step: What is attended to.
        """
        _, num_slots, key_heads, columns, width = step.own_keys.shape
        heads = qkv.shape[1] // width - 2 * key_heads
        out = torch.empty(qkv.shape[0], heads * width, dtype=self._dtype)
        epsilon = 0.0 if norms[0] is None else norms[0].epsilon
        failed = self._library.attend(
            *map(int64, (qkv.shape[0], heads, key_heads, width, num_slots, layer)), pointer(qkv), *map(pointer, step.rotation),
            *(pointer(None if norm is None else norm.value) for norm in norms), float32(epsilon), float32(step.scaling),
            pointer(step.own_keys), pointer(step.own_values), int64(columns), pointer(step.slots), pointer(step.num_written),
            pointer(step.prompt_keys), pointer(step.prompt_values), pointer(step.prompt_lengths), pointer(out),
        )  # fmt: skip
        if failed:
            raise MemoryError("attend: no memory for the scores")
        return out


def load_functions(dtype: torch.dtype) -> tuple[ctypes.CDLL | None, str]:
    """Load the functions of llama.c for bfloat16 or float32; return None and the reason where that fails."""
    return load_library(_SOURCE, *_FLAGS[dtype])


def computes(dtype: torch.dtype) -> bool:
    """Tell whether there are functions in C for a dtype."""
    return dtype in _FLAGS
