"""What is wrong with the data of a config, told before training."""
