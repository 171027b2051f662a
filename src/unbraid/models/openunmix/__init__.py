"""Open-Unmix: an LSTM network for each stem, and a Wiener filter that puts their estimates together."""
