"""Studies the cost in sampling steps of a high dimension (arXiv 2501.00988)."""
