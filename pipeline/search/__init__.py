"""The search space, DeepHyper proposals by ask and tell, and rung decisions."""
