"""Readers of the weight files of other programs; none of them runs anything that a file says."""
