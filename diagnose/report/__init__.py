"""The report of a run: one self-contained HTML page, its Markdown twin, and the figures, from diagnosis.json or compare.json alone."""
