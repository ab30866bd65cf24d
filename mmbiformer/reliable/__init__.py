"""What knows the frameworks: configs, checks, processes, runs."""
