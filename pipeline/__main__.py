"""``python -m gfm_pipeline`` is ``gfm-pipeline``."""

from gfm_pipeline.entry import main

main()
