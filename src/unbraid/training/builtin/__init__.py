"""The small training program of the built-in 4-stem model."""
