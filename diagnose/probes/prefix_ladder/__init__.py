"""The prefix ladder: how much of a reference path a model must be given until it finds the rest by itself.

A problem out of reach may be so because its first moves are never made, or because nothing after them works either. Success from a
prefix of the path tells these apart (POPE, arXiv 2601.18779; BREAD, 2506.17211; Prefix-RFT, 2507.01679), and that is what guided
training needs. Prefixes are cut from the token ids of the whole path and end before the answer first appears. Rungs are chosen by
noisy bisection. Placebos, another problem's prefix and a wrong last step, show whether the gain is knowledge of the path.
"""

from posttrain.diagnose.probes.prefix_ladder.finding import PrefixLadderOutcome as PrefixLadderOutcome
from posttrain.diagnose.probes.prefix_ladder.probe import PrefixLadder as PrefixLadder
