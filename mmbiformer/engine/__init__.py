"""What knows the frameworks: configs, checks, checkpoints, processes, runs."""
