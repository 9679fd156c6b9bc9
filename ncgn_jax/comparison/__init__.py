"""Comparisons of variants: what varies, the runs, their speed and the report."""
