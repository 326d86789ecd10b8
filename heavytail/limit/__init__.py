"""The mean-field limit: particles, their coupling, the density of the limit."""
