"""Measurements: of speed and size, beside others (`load`), of faults (`stress`)."""
