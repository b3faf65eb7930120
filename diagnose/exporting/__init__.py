"""From finished runs to the files of other tools: problems, samples and pass rates."""
