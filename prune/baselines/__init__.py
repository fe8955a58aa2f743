"""Selection baselines; importing this package registers them in prune.methods."""
