"""Benchmarks: ours beside Spleeter 2.4.2 on one machine, in one run; ``python -m bench`` writes docs/performance.md."""
