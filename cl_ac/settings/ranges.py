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
COUNT, MANY = Range(1, 1_000_000), Range(0, 1_000_000_000)

# Whatever is counted in a setting: more is a slip, and overflows somewhere below.
ANY_INT, ANY_FLOAT = Range(-(2**31), 2**31 - 1), Range(-1e30, 1e30)

# Of our classes' options; those of a class of its own meaning as Class.option.
RANGES: dict[str, Range] = {
    "seed": Range(0, 2**63 - 1),
    "keep_outputs": MANY,
    # approaches
    "strength": WEIGHT,
    "auxiliary_strength": WEIGHT,
    "auxiliary_momentum": Range(0, 1, below=True),
    "auxiliary_weight_decay": WEIGHT,
    "auxiliary_clip": WEIGHT,
    "temperature": POSITIVE,
    "bias_epochs": MANY,
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
    "balanced_epochs": MANY,
    "balanced_lr": POSITIVE,
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
    # backbones
    "width": Range(1, 8192),
    "hidden": Range(1, 65_536),
    "depth": Range(1, 1000),
    "heads": Range(1, 1024),
    "patch": Range(1, 4096),
    "expansion": Range(0, 64, above=True),
    "dropout": Range(0, 1, below=True),
    # benchmarks
    "ImageFolder.size": Range(1, 4096),
    "ImageNet100.size": Range(1, 4096),
    "Augmentation.size": Range(1, 4096),
    "padding": Range(0, 4096),
    # training
    "epochs": Range(0, 10_000_000),
    "batch_size": COUNT,
    "lr": POSITIVE,
    "workers": Range(0, 1024),
    "Exits.pool": Range(1, 4096),
}


def range_of(owner: type, option: str) -> Range | None:
    """The range of an option of one of our classes; None where there is no more to say than its type does."""
    return (
        RANGES.get(f"{owner.__name__}.{option}", RANGES.get(option)) if owner.__module__.startswith("cl_ac") else None
    )
