"""What numbers our options may be, where the type says too little. Checks of several options stay in constructors."""

from typing import NamedTuple


class Range(NamedTuple):
    """Numbers from `low` to `high`; `above` leaves out `low` itself, `below` leaves out `high`."""

    low: float = float("-inf")
    high: float = float("inf")
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is in it."""
        low = value > self.low if self.above else value >= self.low
        return low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:.12g}"
        high = f"{'below' if self.below else 'at most'} {self.high:.12g}"
        ends = [text for text, end in ((low, self.low), (high, self.high)) if abs(end) != float("inf")]
        return " and ".join(ends)


POSITIVE, WEIGHT, SHARE = Range(0, 1e12, above=True), Range(0, 1e12), Range(0, 1)
SOME, PART, MOST = Range(0, 1, above=True), Range(0, 1, above=True, below=True), Range(0, 1, below=True)
COUNT, MANY, EPOCHS = Range(1, 1_000_000), Range(0, 1_000_000_000), Range(0, 10_000_000)
SOME_EPOCHS = Range(1, 10_000_000)

# Whatever is counted in a setting: more is a slip, and overflows somewhere below.
ANY_INT, ANY_FLOAT = Range(-(2**31), 2**31 - 1), Range(-1e30, 1e30)

# Of our classes' options; those of a class of its own meaning as Class.option.
RANGES: dict[str, Range] = {
    "seed": Range(0, 2**63 - 1),
    "keep_outputs": MANY,
    "devices": Range(1, 1024),
    # approaches
    "strength": WEIGHT,
    "auxiliary_strength": WEIGHT,
    "auxiliary_momentum": MOST,
    "auxiliary_weight_decay": WEIGHT,
    "auxiliary_clip": WEIGHT,
    # What is divided by less may be no number in single precision.
    "temperature": Range(1e-6, 1e12),
    "BiC.validation": Range(0, 0.5, above=True),
    "bias_epochs": SOME_EPOCHS,
    "bias_lr": POSITIVE,
    "EWC.alpha": Range(-1, 1),
    "EWC.decay": SHARE,
    "interval": COUNT,
    "attention": WEIGHT,
    "replay_weight": WEIGHT,
    "replay": COUNT,
    "alpha": SHARE,
    "freeze_after": MANY,
    "cutmix": SHARE,
    "intra_weight": WEIGHT,
    "inter_weight": WEIGHT,
    "ranking": WEIGHT,
    "margin": WEIGHT,
    "rivals": COUNT,
    "flat": WEIGHT,
    "spatial": WEIGHT,
    "proxies": Range(1, 10_000),
    "candidates": COUNT,
    "virtual_lr": POSITIVE,
    "balanced_epochs": EPOCHS,
    "balanced_lr": POSITIVE,
    "noise": WEIGHT,
    "auxiliary": WEIGHT,
    "classifier_epochs": EPOCHS,
    "classifier_lr": POSITIVE,
    "boosting_beta": MOST,
    "compression_beta": MOST,
    "compression_epochs": SOME_EPOCHS,
    "compression_lr": POSITIVE,
    "plastic_rate": SOME,
    "stable_rate": SOME,
    "plastic_decay": MOST,
    "stable_decay": MOST,
    # The gates of eq. 3 at s_max and eq. 6 at its inverse stay numbers in single precision.
    "largest_scale": Range(1, 1e6),
    "embedding": Range(1, 65_536),
    "chunk": MANY,
    "chunk_embedding": Range(1, 65_536),
    "lookahead": WEIGHT,
    "OrthogonalPackNet.tasks": Range(2, 10_000),
    "prune": PART,
    "retrain_epochs": EPOCHS,
    "retrain_lr": POSITIVE,
    "projection": Range(1, 65_536),
    "crop": SOME,
    "jitter": WEIGHT,
    "grayscale": SHARE,
    # The polytope of XDERRPC is a matrix of as many rows and columns.
    "classes": Range(2, 20_000),
    "constraint": WEIGHT,
    "share": SHARE,
    "preparation": WEIGHT,
    "views": Range(2, 1024),
    "contrasted": COUNT,
    "ridge": WEIGHT,
    "damping": POSITIVE,
    "EFC.damping": WEIGHT,
    "prototypes": WEIGHT,
    "PASS.distillation": WEIGHT,
    "IL2A.distillation": WEIGHT,
    "SSRE.distillation": WEIGHT,
    "IL2A.ratio": WEIGHT,
    "mixes": Range(0, 1024),
    "sigma": POSITIVE,
    "later_lr": POSITIVE,
    "rank": Range(1, 8192),
    "backbone_rate": SOME,
    "alignment_epochs": EPOCHS,
    "alignment_lr": POSITIVE,
    "SLCA.samples": COUNT,
    "scale": Range(-1e6, 1e6),
    "reweight": WEIGHT,
    "RoutedAdapters.alpha": POSITIVE,
    "RoutedAdapters.top": COUNT,
    "blocks": COUNT,
    "frozen_epochs": EPOCHS,
    "APER.length": Range(1, 4096),
    "LAE.length": Range(1, 4096),
    "LAE.decay": MOST,
    "norm": POSITIVE,
    "L2P.pool": Range(1, 65_536),
    "L2P.length": Range(1, 4096),
    "chosen": Range(1, 65_536),
    "pull": WEIGHT,
    "general_blocks": Range(0, 1000),
    "expert_blocks": Range(0, 1000),
    "general_length": Range(1, 4096),
    "expert_length": Range(1, 4096),
    "components": Range(1, 65_536),
    "CODAPrompt.length": Range(2, 4096),
    "CODAPrompt.blocks": Range(0, 1000),
    "orthogonality": WEIGHT,
    # retrieval
    "OneAdapter.alpha": POSITIVE,
    "DAR.top": COUNT,
    "DAR.prototypes": Range(1, 10_000),
    "DAR.unknown": MOST,
    "DAR.steps": Range(1, 1000),
    "DAR.keep": SOME,
    "batches": COUNT,
    "EWC.pairs": COUNT,
    "per_domain": COUNT,
    "drawn": COUNT,
    "align_epochs": EPOCHS,
    "align_lr": POSITIVE,
    "PairTable.size": Range(1, 4096),
    # classifiers, and the approaches that hand these on to them
    # Less is lost in the rounding of sums over images.
    "ACIL.ridge": Range(1e-9, 1e12),
    "DSAL.ridge": Range(1e-9, 1e12),
    "RanPAC.ridge": Range(1e-9, 1e12),
    "RanPAC.width": Range(1, 16_384),
    "compensation": WEIGHT,
    "tukey": POSITIVE,
    "diagonal": WEIGHT,
    "off_diagonal": WEIGHT,
    "shrinkage": SOME,
    "sparsity": WEIGHT,
    "side": Range(1, 4096),
    "Ensemble.decay": WEIGHT,
    "new_weight": PART,
    "rehearsal": SOME,
    "ProgressiveLatentReplay.frequencies": SHARE,
    "BrainInspiredReplay.noise": POSITIVE,
    # generators
    "latent": Range(1, 65_536),
    "layers": Range(1, 100),
    "gates": MOST,
    "VAE.noise": POSITIVE,
    "MixtureOfExperts.experts": Range(1, 1024),
    "MixtureOfExperts.noise": POSITIVE,
    # backbones
    "width": Range(1, 8192),
    "hidden": Range(1, 65_536),
    "depth": Range(1, 1000),
    "heads": Range(1, 1024),
    "patch": Range(1, 4096),
    "expansion": Range(0, 64, above=True),
    "dropout": MOST,
    # benchmarks
    "ImageFileSet.size": Range(1, 4096),
    "Augmentation.size": Range(1, 4096),
    "padding": Range(0, 4096),
    "Omniglot.size": Range(1, 4096),
    "SpokenDigits.size": Range(4, 512),
    "HuggingFace.size": Range(1, 4096),
    "Sequence.size": Range(1, 4096),
    # streams
    "disjoint": SHARE,
    "blurry": SHARE,
    "overlap": SHARE,
    "SlotRepetition.classes": COUNT,
    "SampledRepetition.samples": Range(1, 1_000_000_000),
    "first": MOST,
    "recurrence": SHARE,
    "exponent": WEIGHT,
    "factor": SOME,
    "rate": SHARE,
    "RotatedImages.largest": Range(0, 360, above=True),
    # training
    "iterations": COUNT,
    "epochs": EPOCHS,
    "batch_size": COUNT,
    "lr": POSITIVE,
    "workers": Range(0, 1024),
    "Exits.pool": Range(1, 4096),
    # sound
    "sample_rate": Range(1, 10_000_000),
    "frequencies": Range(1, 30),
    "emitted": Range(0, 1000),
    # simulation
    "showers": Range(8, 10_000_000),
    "repeats": Range(2, 1000),
    "held_out": PART,
    "Calorimeter.height": Range(4, 1024),
    "Calorimeter.width": Range(4, 1024),
    "least_energy": Range(0, 1e4, above=True),
    "most_energy": Range(0, 1e4, above=True),
    "Experts.noise": Range(1, 4096),
    "Experts.discriminator": Range(1, 8192),
    "features": Range(1, 8192),
    "diversity": WEIGHT,
    "intensity": WEIGHT,
    "position": WEIGHT,
    "Weights.experts": WEIGHT,
    "differentiation": WEIGHT,
    "balance": WEIGHT,
    "utilisation": WEIGHT,
    "distribution": WEIGHT,
    "Adversarial.epochs": SOME_EPOCHS,
    "Adversarial.batch_size": Range(2, 1_000_000),
    "generator_lr": POSITIVE,
    "discriminator_lr": POSITIVE,
    "regressor_lr": POSITIVE,
    "router_lr": POSITIVE,
    "blur": WEIGHT,
    # sparse training
    "Sparse.density": SOME,
    "Sparse.gain": POSITIVE,
    "jacobian": Range(0, 1024),
}


def range_of(owner: type, option: str) -> Range | None:
    """The range of an option of one of our classes; None where there is no more to say than its type does."""
    if not owner.__module__.startswith("cl_ac"):
        return None
    owned = (RANGES.get(f"{each.__name__}.{option}") for each in owner.__mro__)
    return next((allowed for allowed in owned if allowed), RANGES.get(option))
