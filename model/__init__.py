"""What a model.bin is, and how it answers; torch in `network` and `artifact.write`."""
