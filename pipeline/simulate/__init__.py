"""The simulator: the real decisions, placement, search and journal, against a simulated clock, cluster and trainer.

The simulator itself decides nothing about a campaign. The driver of `gfm_pipeline.engine` gets another world
(`gfm_pipeline.engine.world`), another launcher and another batch system, and runs as on a real machine.
"""
