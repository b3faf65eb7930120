"""Brings finished samples of other tools into a run directory, so that they are diagnosed, compared, gated and plotted like our own."""
