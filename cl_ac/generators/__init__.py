"""Models that draw images or features like those that they were fitted to, so that earlier classes can be replayed."""

from cl_ac.generators.adam import Adam
from cl_ac.generators.experts import MixtureOfExperts
from cl_ac.generators.generator import Generator, class_weights
from cl_ac.generators.vae import VAE

__all__ = ["VAE", "Adam", "Generator", "MixtureOfExperts", "class_weights"]
