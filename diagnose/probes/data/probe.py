"""The probe itself."""

from __future__ import annotations

import hashlib

import numpy as np

from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.probes.base import AvailableInputs, Finding, Probe, ProbeContext, ProbeCost
from posttrain.diagnose.probes.data.answers import EncodedAnswer, ScoredAnswer, encode_row, own_answers
from posttrain.diagnose.probes.data.finding import make_finding, write_row_notes
from posttrain.diagnose.types import Behavior, SkipReason, Split


class Data(Probe):
    """Scores a data set under the policy."""

    name = "data"

    def __init__(self, *, num_rows: int = 256, num_own: int = 256, longest: int = 1024):
        """Take sizes.

        Args:
            num_rows: Rows to score, chosen at random by the seed; 256 give a share to ± .06.
            num_own: Own answers that they are held against.
            longest: Tokens of an answer to score; the rest is left out.
        """
        self.num_rows, self.num_own, self.longest = num_rows, num_own, longest

    def plan(self, behavior: Behavior, split: Split, available: AvailableInputs) -> ProbeCost:
        """See `Probe`: two answers of a row at most, each of the greatest length; nothing is generated."""
        if not available.data:
            return ProbeCost(impossible=SkipReason.NO_DATA)
        return ProbeCost(scored_tokens=2 * self.num_rows * self.longest, when="whenever a data set is given")

    def worth(self, context: ProbeContext) -> SkipReason | None:
        """See `Probe`: whoever gives a data set wants to know."""
        return None if context.data else SkipReason.NO_DATA

    def run(self, context: ProbeContext) -> Finding:
        """Score rows and own answers, hold them against each other."""
        rows = context.data or ()
        digest = hashlib.sha256(f"{context.seed}\x00data".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        chosen = sorted(rng.permutation(len(rows))[: self.num_rows].tolist())
        encoded: list[EncodedAnswer] = []
        refused = ""
        for index in chosen:
            try:
                encoded += encode_row(context.policy, context.behavior.prompt, rows[index], self.longest)
            except BehaviorError as error:
                refused = refused or f"row {rows[index].index}: {error}"
        if not encoded:
            raise SettingsError(f"the model cannot read the data: {refused}", code="data_unreadable")
        scores = context.sampler.score([one.request for one in encoded], what="rows of the data set")
        answers = [
            ScoredAnswer(row=one.row, group=str(one.row), side=one.side, nats=-score.logprobs.astype(np.float64), cut=one.cut)
            for one, score in zip(encoded, scores, strict=True)
        ]
        notes = write_row_notes(context, rows, len(chosen), encoded, refused)
        return make_finding(context, answers, own_answers(context, self.num_own, rng), notes)
