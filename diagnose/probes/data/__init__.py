"""The data probe: whether training on a data set would bring in what the policy lacks, or move what it has.

Training on demonstrations expands or reshapes; which of them depends on what they add to the policy's support (arXiv 2604.07941). So every
answer is scored under the policy, and support is assessed token by token, as the survey treats actions: an answer is out of support
where some token is less likely than ε given what stands before it. Text that a model writes itself holds such tokens too, where it has
much to choose from. So the limit is lowered to what 19 in 20 of the policy's own answers keep to: an answer is out of support only if its
least likely token is less likely than those.

What carries the training is counted in two ways: the loss (−log p, summed over tokens), and the gradient, of which a token's part is
1 − p (half the L1 norm of the gradient with respect to its logits). The gradient knows no outliers: where most of it comes from
tokens out of support the data expands. Where neither does, nor most of the loss lies in rows out of support, it reshapes. Between the two
lie long rows with a few low-probability tokens, and policies that are sure of nothing, to which every token gives a gradient of about 1.

Of pairs it asks further whether the chosen answer is in support, whether the policy prefers it already (log π(chosen) − log π(rejected), summed as
DPO sums it and per token as SimPO does, arXiv 2305.18290 and 2405.14734), and what length alone would say: a sum prefers the shorter one.
"""

from posttrain.diagnose.probes.data.numbers import DataOutcome as DataOutcome
from posttrain.diagnose.probes.data.probe import Data as Data
