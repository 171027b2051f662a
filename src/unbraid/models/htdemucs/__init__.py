"""HT Demucs: Hybrid Demucs with a Transformer across both branches in the middle."""
