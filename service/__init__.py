"""The HTTP service over a model; never torch."""
