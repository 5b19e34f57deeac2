"""``python -m gfm_pipeline`` is ``gfm-pipeline``."""

from gfm_pipeline.cli.main import main

main()
