"""What only the experiments need: data sets, networks, the training loop."""
