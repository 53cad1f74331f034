"""Spoken digits as images: the loudness of each pitch over time."""

import math
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from cl_ac.benchmark import Benchmark
from cl_ac.data.augmentation import Augmentation
from cl_ac.data.samples import Samples
from cl_ac.data.waves import mel_filters, read_wave
from cl_ac.errors import DataError

TEST_TAKES = 5
# Louder by so many decibels than black is white.
RANGE = 80.0


class SpokenDigits(Benchmark):
    """Free Spoken Digit Dataset (Jackson et al., 2018): 2,700 + 300 recordings of ten digits by six speakers.

    Recordings are wav files `<digit>_<speaker>_<take>.wav`; takes below 5 are for testing, as usual. The middle second
    of each (shorter ones are laid in silence) becomes a log-mel spectrogram, low pitches at the bottom. Each speaker is
    a domain, in alphabetical order.

    Args:
        root: folder that holds `spoken-digits`.
        size: bands of pitch, and steps of time: the side of the image in pixels.
    """

    stored_as = "spoken-digits"
    num_classes = 10

    def __init__(
        self,
        root: str = "~/data",
        size: int = 32,
        augmentation: Augmentation = Augmentation(mean=(0.26,), std=(0.31,), crop="shift", padding=2),
        **splitting,
    ):
        super().__init__(augmentation=augmentation, **splitting)
        self.root, self.size = Path(root).expanduser(), size
        self.image_shape = (1, size, size)

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        """The speakers."""
        return tuple(sorted({speaker for _, _, speaker, _ in self._recordings}))

    @cached_property
    def _recordings(self) -> list[tuple[Path, int, str, int]]:
        """Path, digit, speaker and take of each file.

        Raises:
            DataError: if there are none, or one whose name says something else.
        """
        place = self.root / self.stored_as
        # The archive on the web keeps them one folder deeper.
        found = sorted(place.glob("*.wav")) or sorted((place / "recordings").glob("*.wav"))
        if not found:
            raise DataError(
                f"there are no recordings at '{place}'; unpack "
                "https://github.com/Jakobovski/free-spoken-digit-dataset there, or say with --benchmark.root where "
                "they are"
            )
        recordings = []
        for path in found:
            words = path.stem.split("_")
            if len(words) != 3 or words[0] not in set("0123456789") or not words[2].isdecimal():
                raise DataError(f"'{path}' is not named <digit>_<speaker>_<take>.wav; rename it or remove it")
            recordings.append((path, int(words[0]), words[1], int(words[2])))
        return recordings

    def load(self) -> tuple[Samples, Samples]:
        """All recordings as resident tensors; `domain` is the place of each one's speaker.

        Raises:
            DataError: for a file that is no readable recording of one channel.
        """
        images = torch.stack([self._image(path) for path, *_ in self._recordings])
        digits, speakers, takes = zip(*(entry[1:] for entry in self._recordings), strict=True)
        domains = torch.tensor([self.domain_names.index(speaker) for speaker in speakers])
        samples = Samples(images, torch.tensor(digits), {"domain": domains})
        is_test = torch.tensor(takes) < TEST_TAKES
        return samples.select(~is_test), samples.select(is_test)

    def _image(self, path: Path) -> Tensor:
        wave, rate = read_wave(path)
        return (255 * log_mel(wave - wave.mean(), rate, self.size)).round().to(torch.uint8)


def log_mel(wave: Tensor, rate: int, size: int) -> Tensor:
    """The loudness of `size` bands of pitch at `size` times in the middle second of a recording.

    Bands are triangles at equal distances in mel (O'Shaughnessy, 1987) from 0 Hz to half the sampling rate; windows
    (Hann) are twice as long as the time between them.

    Args:
        wave: float [N], `rate` values a second.
        size: bands and times.
    Returns:
        [1, size, size], the highest band first, from 0 (80 dB below the loudest, and silence) to 1 (the loudest).
    """
    second = torch.zeros(rate)
    start = (rate - len(wave)) // 2
    kept = wave[max(-start, 0) : max(-start, 0) + rate]
    second[max(start, 0) : max(start, 0) + len(kept)] = kept
    hop = max(rate // size, 1)
    bins = 2 ** math.ceil(math.log2(max(2 * hop, 4 * size)))
    spectrum = torch.stft(
        second, bins, hop, 2 * hop, torch.hann_window(2 * hop), center=True, pad_mode="constant", return_complex=True
    )
    power = mel_filters(size, bins // 2 + 1, rate) @ spectrum[:, :size].abs().square()
    decibels = 10 * power.clamp(min=1e-10).log10()
    return ((decibels - decibels.max()) / RANGE + 1).clamp(0, 1).flip(0)[None] * (power.max() > 1e-10)
