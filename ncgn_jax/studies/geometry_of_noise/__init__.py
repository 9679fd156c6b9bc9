"""What models that are not told the noise level can do (2602.18428)."""
