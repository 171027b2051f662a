"""Training and fine-tuning of every family of networks; see docs/training.md."""
