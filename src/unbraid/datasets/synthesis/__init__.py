"""Songs made up by rule: composed, played by synthesisers or recorded instruments, sung, and mixed."""
