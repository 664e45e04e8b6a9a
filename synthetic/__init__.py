"""Pictures drawn in code, for training."""
