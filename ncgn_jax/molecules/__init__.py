"""Molecules by diffusion in the latents of an autoencoder: data, models, measures."""
