"""Hybrid Demucs: one U-Net over the samples and one over the spectrogram, which meet in the middle."""
