"""The formats that samples can be imported from, one module each."""

from __future__ import annotations

from posttrain.diagnose.importing.formats.counts import COUNTS
from posttrain.diagnose.importing.formats.nemo_gym import NEMO_GYM
from posttrain.diagnose.importing.formats.prime_rl import PRIME_RL
from posttrain.diagnose.importing.formats.table import TABLE
from posttrain.diagnose.importing.formats.verifiers import VERIFIERS
from posttrain.diagnose.importing.imported import Format

FORMATS: dict[str, Format] = {one.name: one for one in (COUNTS, TABLE, VERIFIERS, PRIME_RL, NEMO_GYM)}
"""Name on the command line → format; register a new one here."""
