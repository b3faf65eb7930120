"""From samples and scores to numbers: counts, likelihoods, validity checks, the posterior of a label."""
