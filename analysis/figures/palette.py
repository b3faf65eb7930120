"""Colours, markers, hatches and sizes that all figures share.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers, line styles and hatches differ as well, so that
nothing is lost in greyscale.
"""

from __future__ import annotations

INK = "#1c2128"
MUTED = "#6a737d"
GRID = "#d8dee4"
PAPER = "#ffffff"
BLUE = "#0072b2"
VERMILION = "#d55e00"
GREEN = "#009e73"
PURPLE = "#a8518a"
ORANGE = "#e69f00"
SERIES: tuple[tuple[str, str], ...] = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (INK, "P"))
"""Colour and marker of the first, second, ... series of a figure."""
HATCHES: tuple[str, ...] = ("", "////", "----", "xxxx", "\\\\\\\\", "++++")
"""Hatch of the first, second, ... series of filled areas."""
NOTE = 7.0
"""Size of the smallest text, points: notes, numbers on marks."""
SHARE_TICKS = [0.0, 0.25, 0.5, 0.75, 1.0]
"""Ticks of an axis from 0 to 1; `SHARE_LABELS` are their texts."""
SHARE_LABELS = ["0", "0.25", "0.5", "0.75", "1"]
