"""The named stages: one small file each, built from what `blocks` offers; `registry` lists them."""
