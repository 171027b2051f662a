"""Music with true stems, to train on, to measure with and to demonstrate."""
