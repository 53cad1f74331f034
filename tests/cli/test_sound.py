"""`cl-ac sound` as a user calls it."""

import numpy as np
import pytest
from scipy.io import wavfile

from cl_ac.cli.main import main
from cl_ac.cli.sound import check_names
from cl_ac.errors import ConfigurationError

RATE = 1000
SIZES = ["--model.sample_rate", str(RATE), "--model.samples", "64", "--model.channels", "2", "--model.strides", "[4,4]"]
SIZES += ["--model.latent", "2", "--model.hidden", "[8]", "--model.width", "4", "--model.frequencies", "4"]
SIZES += ["--training.epochs", "1", "--training.bands", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(4):
        values = 9000 * np.sin(np.arange(150) * (index + 2) / 10)
        wavfile.write(folder / f"tone_{'old' if index < 3 else 'new'}_{index}.wav", RATE, values.astype("int16"))
    return folder


def refused(capsys, *words) -> str:
    assert main(["sound", *map(str, words)]) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("cl-ac: ")
    assert "\n" not in printed
    return printed


def test_fits_and_reconstructs_at_another_rate(folder, tmp_path, capsys):
    out = tmp_path / "model"
    assert main(["sound", "fit", str(folder), "--out", str(out), "--held_out", "*_new_*", *SIZES]) == 0
    printed = capsys.readouterr().out
    assert "Trained on 3 recordings" in printed
    assert "SI-SNR" in printed
    assert "<svg" in (out / "report.html").read_text()
    assert wavfile.read(out / "waves" / "tone_new_3-HyperSound.wav")[0] == RATE
    assert "holds a model" in refused(capsys, "fit", folder, "--out", out, *SIZES)
    assert main(["sound", "fit", str(folder), "--out", str(out), "--held_out", "*_new_*", "--resume", *SIZES]) == 0

    made = tmp_path / "made"
    words = ["reconstruct", out, folder / "tone_new_3.wav", "--out", made, "--sample_rate", 2 * RATE, "--device", "cpu"]
    assert main(["sound", *map(str, words)]) == 0
    rate, values = wavfile.read(made / "tone_new_3.wav")
    assert (rate, len(values)) == (2 * RATE, 300)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.width", "0"], "model.width is 0"),
        (["--model.samples", "0"], "0 samples"),
        (["--model.sample_rate", "8000"], "1000 samples a second, not 8000"),
        (["--held_out", "*"], "all wav files"),
        (["--held_out", "*_nobody_*"], "nothing would be held out"),
        (["--training.lr", "0"], "training.lr is 0"),
    ],
)
def test_a_mistake_is_one_sentence(folder, tmp_path, capsys, words, told):
    assert told in refused(capsys, "fit", folder, "--out", tmp_path / "out", *SIZES, *words)


@pytest.mark.parametrize(
    ("values", "rate", "told"),
    [
        (np.zeros(0, "int16"), RATE, "int16 [0]"),
        (np.zeros((9, 2), "int16"), RATE, "one channel"),
        (np.zeros(9, "int16"), 44100, "44100 samples a second, not 1000"),
        (None, RATE, "cannot read"),
    ],
)
def test_a_recording_that_does_not_fit_is_one_sentence(tmp_path, capsys, values, rate, told):
    path = tmp_path / "wrong.wav"
    path.write_text("no recording") if values is None else wavfile.write(path, rate, values)
    printed = refused(capsys, "fit", tmp_path, "--out", tmp_path / "out", *SIZES)
    assert told in printed
    assert "wrong.wav" in printed


def test_other_words_are_one_sentence(tmp_path, capsys):
    assert "unknown command of cl-ac sound" in refused(capsys, "fti")
    assert "no model" in refused(capsys, "reconstruct", tmp_path, tmp_path / "some.wav")


def test_a_reconstruction_replaces_no_recording_and_no_other_one(tmp_path):
    first, second = tmp_path / "a" / "tone.wav", tmp_path / "b" / "tone.wav"
    check_names([first, first], tmp_path / "made")
    with pytest.raises(ConfigurationError, match="would be overwritten"):
        check_names([first], tmp_path / "b" / ".." / "a")
    with pytest.raises(ConfigurationError, match="have the same name"):
        check_names([first, second], tmp_path / "made")
