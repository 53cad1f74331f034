"""Training, killed and resumed."""

import pytest
import torch

from cl_ac.data.seeding import global_stream
from cl_ac.errors import ConfigurationError, ResumeError, UserError
from cl_ac.sound.model import HyperSound
from cl_ac.sound.training import SoundTraining, State, fit

FEW = {"epochs": 3, "batch_size": 4, "lr": 0.01, "bands": 8}


@pytest.fixture
def trained(small, tones):
    """Trains a small model on six clips, with its state at a path."""

    def make(path, on_epoch=lambda epoch, loss: None, clips=None, **changes):
        training = SoundTraining(**{**FEW, **changes})
        with global_stream(0, "model"):
            model = HyperSound(**small)
        return fit(model, list(tones(6) if clips is None else clips), training, small, path, on_epoch)

    return make


@pytest.mark.parametrize("mangled", [0.0, 0.8])
def test_a_killed_training_goes_on_with_the_same_bits(trained, tmp_path, mangled):
    def stop(epoch, loss):
        if epoch == 2:
            raise KeyboardInterrupt

    whole = trained(tmp_path / "whole.pt", mangled=mangled)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped.pt", stop, mangled=mangled)
    resumed = trained(tmp_path / "stopped.pt", mangled=mangled)
    assert whole.losses == resumed.losses
    assert all(torch.equal(value, resumed.weights[name]) for name, value in whole.weights.items())


def test_phases_are_changed_on_request(trained, tmp_path):
    plain, turned = (trained(tmp_path / f"{share}.pt", epochs=1, mangled=share) for share in (0.0, 1.0))
    assert plain.losses != turned.losses


def test_training_lowers_the_loss_and_the_file_builds_the_model(trained, tmp_path):
    state = trained(tmp_path / "model.pt", epochs=25, mel=0.0, square=1.0)
    assert state.losses[-1] < 0.8 * state.losses[0]
    model = State.load(tmp_path / "model.pt").build()
    assert all(torch.equal(value, state.weights[name]) for name, value in model.state_dict().items())


def test_another_setting_is_no_resume(trained, tmp_path):
    trained(tmp_path / "model.pt", epochs=1)
    with pytest.raises(ResumeError, match="other settings"):
        trained(tmp_path / "model.pt", epochs=2)


def test_other_recordings_are_no_resume(trained, tones, tmp_path):
    trained(tmp_path / "model.pt", epochs=1)
    one_less, one_changed = tones(5), tones(6)
    one_changed[3, 7] += 0.1
    for clips in (one_less, one_changed, tones(6).flip(0)):
        with pytest.raises(ResumeError, match="other recordings"):
            trained(tmp_path / "model.pt", clips=clips, epochs=1)


def test_every_step_moves_the_weights(trained, tmp_path):
    # One epoch of 4 + 2 clips has two steps: the rates of a quarter and three quarters of the way.
    rates, step = [], torch.optim.AdamW.step

    def kept(self, *rest):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", kept)
        trained(tmp_path / "model.pt", epochs=1)
    assert rates == pytest.approx([0.01 * (2 + 2**0.5) / 4, 0.01 * (2 - 2**0.5) / 4])


@pytest.mark.parametrize("content", [None, b"no model"])
def test_what_is_no_model_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ResumeError, match=r"model\.pt"):
        State.load(tmp_path / "model.pt")


def test_a_loss_that_is_no_number_is_told(trained, tmp_path):
    with pytest.raises(UserError, match="lower training"):
        trained(tmp_path / "model.pt", lr=1e20, clip=1e20)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"wave": -1.0}, {"wave": 0.0, "mel": 0.0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="training"):
        SoundTraining(**wrong)


def test_the_rate_rises_and_falls_to_nothing():
    training = SoundTraining(lr=2.0)
    assert training.rate_at(0.025) == pytest.approx(1.0, rel=0.01)
    assert training.rate_at(0.5) == pytest.approx(1.0)
    assert training.rate_at(1.0) == pytest.approx(0.0)
