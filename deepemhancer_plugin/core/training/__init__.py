"""Training of the networks on simulated half maps."""
