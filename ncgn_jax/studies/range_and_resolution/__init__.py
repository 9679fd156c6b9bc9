"""How far and how coarsely to look at each noise level (2507.09391)."""
