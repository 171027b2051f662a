"""How good a separation is: scores of stems against the true ones."""
