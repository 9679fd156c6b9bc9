"""How many sampling steps a high dimension costs (2501.00988)."""
