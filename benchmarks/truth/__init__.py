"""Truth benchmark: planted bottlenecks, their true labels, and what the verdicts and the named stages are worth."""
