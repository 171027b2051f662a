"""The Spleeter family: U-Nets that estimate each stem's magnitude spectrogram from the mix's."""
