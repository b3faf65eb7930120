"""The drift probe: what an earlier policy π0 had that this one, π, has lost, and how far it has moved on the task's prompts.

Two distances, in nats. The forward KL(π0‖π) is the mean of log π0(y) − log π(y) over answers of the earlier policy; on the new task's
prompts it predicts what is forgotten elsewhere (arXiv 2509.04259). The reverse KL(π‖π0) is the same over answers of the policy itself.
Both are plain Monte-Carlo means, unbiased and noisy; one engine's scorer gives both terms, so that two equal models are 0 apart
exactly and not the distance between a sampler's and a scorer's precision.

Two losses. A problem is lost where its success rate fell under a test (Fisher's, false discoveries at 5 % of those named). A right answer
of the earlier policy is lost where it became less likely by more than log(1/ε): what one sample found then takes more than 1/ε samples now.

There is evidence for attrition where most of what is not mastered now was there before: of the problems that are not mastered now, more than
half were in support before and keep less than half of their success rate. That is a statement about the posterior of both
policies' rates, which are fitted apart; so it is made only where the tests find a fall as well, which under two equal models happens in
5 % of runs at most. Measured for this project on 150 pairs of draws of one model (12 to 32 problems, 16 and 32 or 64 samples): a fall in 2 %,
evidence in none.
"""

from posttrain.diagnose.probes.drift.finding import DriftOutcome as DriftOutcome
from posttrain.diagnose.probes.drift.probe import Drift as Drift
