"""The simulator: the real decisions, placement, search and journal, against a simulated clock, cluster and trainer.

Nothing here decides anything about a campaign. The driver of `gfm_pipeline.engine` is given another world
(`gfm_pipeline.engine.world`), another launcher, another batch system, and runs as it does on a machine.
"""
