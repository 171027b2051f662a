"""Signal processing on NumPy arrays, without any knowledge of models or files."""
