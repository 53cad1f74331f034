"""Spoken digits, from small wav files that are written here."""

import numpy
import pytest
import torch
from scipy.io import wavfile

from cl_ac.data.waves import mel_filters
from cl_ac.datasets.spoken_digits import SpokenDigits, log_mel
from cl_ac.errors import DataError

RATE = 8000


def _tone(hertz, seconds=0.5, kind=numpy.int16):
    times = numpy.arange(int(RATE * seconds)) / RATE
    wave = 0.5 * numpy.sin(2 * numpy.pi * hertz * times)
    return wave.astype(kind) if kind is numpy.float32 else (wave * numpy.iinfo(kind).max).astype(kind)


def _written(place, speakers=("theo", "george")):
    """Two digits, by each speaker, takes 4 (a test recording) and 5."""
    place.mkdir(parents=True)
    for speaker in speakers:
        for digit in (0, 7):
            for take in (4, 5):
                wavfile.write(place / f"{digit}_{speaker}_{take}.wav", RATE, _tone(300 * (digit + 1)))


@pytest.mark.parametrize("folder", ["spoken-digits", "spoken-digits/recordings"])
def test_digits_speakers_and_takes_are_told_by_names(tmp_path, folder):
    _written(tmp_path / folder)
    benchmark = SpokenDigits(str(tmp_path))
    assert benchmark.domain_names == ("george", "theo")
    for samples in benchmark.load():
        assert samples.images.shape == (4, 1, 32, 32)
        assert samples.targets.tolist() == [0, 0, 7, 7]
        assert samples.extras["domain"].tolist() == [0, 1, 0, 1]
    assert not torch.equal(samples.images[0], samples.images[2])


@pytest.mark.parametrize("size", [16, 32])
def test_a_tone_is_a_bright_line_in_its_band(size):
    image = log_mel(torch.from_numpy(_tone(1000, seconds=1.0)).float(), RATE, size)
    assert image.shape == (1, size, size)
    assert (image.min(), image.max()) == (0, 1)
    bands = image[0, :, size // 2].flip(0)
    mel = 2595 * numpy.log10(1 + 1000 / 700)
    top = 2595 * numpy.log10(1 + RATE / 2 / 700)
    assert abs(int(bands.argmax()) + 1 - mel / top * (size + 1)) < 1
    assert bands.argmax() == image[0, :, size // 3].flip(0).argmax(), "at all times"


def test_short_recordings_stand_in_the_middle_and_long_ones_are_cut():
    short = log_mel(torch.from_numpy(_tone(1000, seconds=0.25)).float(), RATE, 32)[0].amax(0)
    assert short[12:20].min() > 0.9
    assert short[:10].max() == short[22:].max() == 0
    rising = torch.cat([torch.zeros(RATE), torch.from_numpy(_tone(1000, seconds=1)).float(), torch.zeros(RATE)])
    assert log_mel(rising, RATE, 32)[0].amax(0).min() > 0.9


def test_silence_is_black():
    assert log_mel(torch.zeros(100), RATE, 32).max() == 0


def test_filters_are_triangles_that_touch():
    filters = mel_filters(8, 513, RATE)
    assert filters.shape == (8, 513)
    assert filters.max() <= 1
    peaks = filters.argmax(1)
    assert peaks.diff().gt(0).all()
    inside = filters.sum(0)[int(peaks[0]) + 1 : int(peaks[-1])]
    assert torch.allclose(inside, torch.ones_like(inside), atol=1e-4)


@pytest.mark.parametrize("kind", [numpy.uint8, numpy.int32, numpy.float32])
def test_every_kind_of_sample(tmp_path, kind):
    _written(tmp_path / "spoken-digits")
    reference = SpokenDigits(str(tmp_path)).load()[1].images[2]
    wave = _tone(2400, kind=numpy.float32)
    values = (128 + 127 * wave).astype(kind) if kind is numpy.uint8 else _tone(2400, kind=kind)
    wavfile.write(tmp_path / "spoken-digits" / "7_george_4.wav", RATE, values)
    found = SpokenDigits(str(tmp_path)).load()[1].images[2]
    assert (found.int() - reference.int()).abs().float().mean() < 12


@pytest.mark.parametrize("name", ["7_george.wav", "x_george_1.wav", "7_george_b.wav"])
def test_names_that_say_something_else(tmp_path, name):
    _written(tmp_path / "spoken-digits")
    (tmp_path / "spoken-digits" / name).touch()
    with pytest.raises(DataError, match=rf"{name}' is not named <digit>_<speaker>_<take>\.wav"):
        SpokenDigits(str(tmp_path)).load()


def test_what_is_no_recording_is_named(tmp_path):
    _written(tmp_path / "spoken-digits")
    (tmp_path / "spoken-digits" / "1_theo_9.wav").write_bytes(b"RIFF....")
    with pytest.raises(DataError, match=r"cannot read the recording '.*1_theo_9\.wav'") as caught:
        SpokenDigits(str(tmp_path)).load()
    assert "\n" not in str(caught.value)
    wavfile.write(tmp_path / "spoken-digits" / "1_theo_9.wav", RATE, numpy.zeros((50, 2), numpy.int16))
    with pytest.raises(DataError, match=r"holds int16 \[50, 2\]; it must be a recording of one channel"):
        SpokenDigits(str(tmp_path)).load()


def test_where_they_must_lie_is_said(tmp_path):
    with pytest.raises(DataError, match=r"no recordings at '.*spoken-digits'; unpack https://github"):
        SpokenDigits(str(tmp_path)).load()
