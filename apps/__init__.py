"""Programs that run on compute nodes, and the contracts the engine speaks with them."""
