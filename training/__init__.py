"""What `train.py` and `evaluate.py` share; never Flask."""
