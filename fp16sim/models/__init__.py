"""The networks of the lessons, one file each."""

from fp16sim.models.autoencoder import Autoencoder

__all__ = ["Autoencoder"]
