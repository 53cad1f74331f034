"""HyperSound: clips to networks to clips."""

import pytest
import torch

from cl_ac.errors import ConfigurationError
from cl_ac.sound.encoder import CausalConv, Encoder
from cl_ac.sound.model import HyperSound


@pytest.mark.parametrize("options", [{}, {"target": "siren"}, {"mode": "add"}, {"emitted": [1], "mode": "modulate"}])
def test_reconstructions_at_twice_the_rate_hold_those_at_the_rate(small, tones, options):
    model = HyperSound(**{**small, **options})
    clips = tones(3)
    once, twice = model(clips), model(clips, 2.0)
    assert once.shape == (3, 64)
    torch.testing.assert_close(twice[:, ::2], once, atol=1e-4, rtol=1e-4)


def test_a_clip_has_a_network_whatever_is_beside_it(small, tones):
    model, clips = HyperSound(**small), tones(3)
    torch.testing.assert_close(model(clips)[1:2], model(clips[1:2]))


def test_only_emitted_layers_count_as_the_clips_numbers(small):
    # Eight features, four hidden units, one output.
    assert HyperSound(**small).emitted_weights == 8 * 4 + 4 + 4 + 1
    model = HyperSound(**small, emitted=[1])
    assert (model.emitted_weights, model.compression) == (5, 64 / 5)


def test_default_sizes_compress():
    assert HyperSound().compression > 3


def test_convolutions_read_nothing_of_what_comes_later():
    layer, wave = CausalConv(1, 1, 8, stride=4), torch.randn(1, 1, 32)
    changed = wave.clone()
    changed[..., 20:] += 1
    # The fifth output is that of samples 16 to 19, and of those before.
    assert torch.equal(layer(wave)[..., :5], layer(changed)[..., :5])
    assert not torch.equal(layer(wave)[..., 5:], layer(changed)[..., 5:])


@pytest.mark.parametrize("samples", [64, 63, 65])
def test_the_encoder_gives_as_many_values_as_it_says_with_a_mean_square_of_one(samples):
    encoder = Encoder(samples, 2, (4, 4), 3)
    found = encoder(torch.randn(2, samples))
    assert found.shape == (2, encoder.outputs)
    torch.testing.assert_close(found.square().mean(1), torch.ones(2), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sample_rate": 0}, "sample_rate is 0"),
        ({"samples": 0}, "at least 1"),
        ({"strides": [4, 0]}, "at least 1"),
        ({"hidden": [0]}, "at least 1"),
        ({"emitted": [7]}, "0 to 1"),
        ({"frequencies": 8}, "128 periods"),
    ],
)
def test_what_cannot_be_is_refused(small, options, told):
    with pytest.raises(ConfigurationError, match=told):
        HyperSound(**{**small, **options})
