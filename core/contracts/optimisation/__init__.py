"""How a model is trained, declared: losses, optimisers, schedules, and the hyperparameters that choose among them."""
