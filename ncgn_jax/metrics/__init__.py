"""Pure functions that score generated samples; each states its normalisation."""
