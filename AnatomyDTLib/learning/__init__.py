"""Growth network, losses, datasets, baselines, training, evaluation."""
