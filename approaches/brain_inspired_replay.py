"""Brain-inspired replay: the network itself encodes, and feedback connections decode what is replayed."""

from torch import Tensor

from cl_ac.approach import ExitNetwork
from cl_ac.approaches.internal_replay import IMAGES, InternalReplay
from cl_ac.generators import VAE


class BrainInspiredReplay(InternalReplay):
    """Brain-inspired replay (van de Ven et al., 2020, BI-R), each of whose five parts can be left out.

    With feedback, the network is the encoder of the variational autoencoder: latent values are read from its last
    features, and its lower stages learn by the gradient of the reconstruction too. With ACs, those at the stage where
    samples enter, or above, learn from the samples; one below goes on with the new classes alone.

    Args:
        feedback: whether the network encodes; else the generator is a network of its own.
        conditional: whether each class has a mode of its own among the latent values, which is sampled.
        gates: share of the decoder's hidden units that each class switches off; 0 for none.
        internal: whether features are replayed (see `at`); else images.
        distilled: whether samples teach what the previous network says of them; else the class it takes them for.
        latent: values in which the generator describes a sample.
        width: hidden units of each of its layers.
        noise: variance that its decoder may leave unexplained, as a share of that of the features.
        at: the stage whose output is replayed. None is the last one that is frozen, the first one if there is none.
    """

    def __init__(
        self,
        feedback: bool = True,
        conditional: bool = True,
        gates: float = 0.5,
        internal: bool = True,
        distilled: bool = True,
        latent: int = 32,
        width: int = 256,
        noise: float = 1.0,
        at: str | None = None,
        freeze: bool = True,
        replay: int | None = None,
        temperature: float = 2.0,
        new_weight: float | None = None,
        generator_lr: float = 3e-3,
    ):
        super().__init__(
            at if internal else IMAGES,
            freeze,
            "distilled" if distilled else "solver",
            generator=VAE(latent, width, conditional=conditional, gates=gates, noise=noise),
            replay=replay,
            temperature=temperature,
            new_weight=new_weight,
            generator_lr=generator_lr,
        )
        self.feedback = feedback

    def build(self, network: ExitNetwork) -> None:
        shapes = [network.backbone.image_shape, *network.stage_shapes]
        (place,) = self.places(network.backbone)
        self.rehearsing.build([shapes[place]], shapes[-1] if self.feedback else None)

    def encoded(self, network: ExitNetwork, outputs: list[Tensor | None]) -> Tensor | None:
        return outputs[-1] if self.feedback else None
