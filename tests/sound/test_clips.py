"""Recordings cut to clips."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_ac.errors import DataError
from cl_ac.sound.clips import in_clips, middle, random_clip, read_waves, wave_files


@given(st.integers(1, 20), st.integers(1, 20), st.integers(-30, 30))
def test_the_middle_and_what_lies_beside_it(length, samples, shift):
    wave = torch.arange(1.0, length + 1)
    start = (length - samples) // 2 + shift
    expected = [wave[at].item() if 0 <= at < length else 0.0 for at in range(start, start + samples)]
    assert middle(wave, samples, shift).tolist() == expected


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000))
def test_random_clips_keep_as_much_as_fits(length, samples, seed):
    wave = torch.arange(1.0, length + 1)
    clip = random_clip(wave, samples, torch.Generator().manual_seed(seed))
    kept = clip[clip > 0]
    assert len(clip) == samples
    assert len(kept) == min(length, samples)
    assert (kept.diff() == 1).all()


def test_clips_one_after_the_other_are_the_recording():
    wave = torch.arange(1.0, 8)
    assert in_clips(wave, 3).tolist() == [[1, 2, 3], [4, 5, 6], [7, 0, 0]]


def test_recordings_are_as_loud_as_can_be_and_silence_stays_silent(recordings):
    recordings(np.array([1, 3, 1, -1], "int16"))
    recordings(np.zeros(5, "int16"), name="b.WAV")
    waves = read_waves(wave_files(recordings(np.zeros(5, "int16"), name="b.WAV")), 1000)
    assert waves[0].tolist() == [0, 1, 0, -1]
    assert waves[1].tolist() == [0] * 5


@pytest.mark.parametrize(
    ("values", "rate", "told"),
    [
        (np.zeros(0, "int16"), 1000, r"int16 \[0\]"),
        (np.zeros((5, 2), "int16"), 1000, "one channel"),
        (np.zeros(5, "int16"), 2000, "2000 samples a second, not 1000"),
    ],
)
def test_recordings_that_do_not_fit_are_named(recordings, values, rate, told):
    with pytest.raises(DataError, match=f"a_one_0.wav.*{told}"):
        read_waves(wave_files(recordings(values, rate)), 1000)


def test_a_file_that_is_no_recording_is_named(tmp_path):
    (tmp_path / "note.wav").write_text("not a recording")
    with pytest.raises(DataError, match=r"note\.wav"):
        read_waves(wave_files(tmp_path), 1000)


def test_a_folder_without_recordings_is_told(tmp_path):
    with pytest.raises(DataError, match="no wav file"):
        wave_files(tmp_path)
