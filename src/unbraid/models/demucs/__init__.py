"""Demucs in the time domain: a U-Net of convolutions over the samples, in the forms of its first three releases."""
