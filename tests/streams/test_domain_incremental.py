"""Domains that the data have, and domains that are made of images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_ac.errors import ConfigurationError
from cl_ac.streams.domain_incremental import DomainIncremental, PermutedPixels, RotatedImages
from cl_ac.streams.stream import Labels, Split


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_each_sample_comes_once_with_its_domain(domains):
    labels = Labels(torch.zeros(len(domains), dtype=torch.int64), Split(1, 9), torch.tensor(domains))
    arrivals = DomainIncremental().arrivals(labels, seed=0)
    assert [arrival.domain for arrival in arrivals] == list(range(max(domains) + 1))
    for arrival in arrivals:
        assert [domains[index] for index in arrival.train] == [arrival.domain] * len(arrival.train)
    assert sorted(torch.cat([arrival.train for arrival in arrivals]).tolist()) == list(range(len(domains)))


def test_domains_are_needed_or_made_but_not_both():
    with pytest.raises(ConfigurationError, match="the benchmark has no domains"):
        DomainIncremental().length(Split(2, 2))
    with pytest.raises(ConfigurationError, match="3 domains of its own: take DomainIncremental"):
        PermutedPixels().length(Split(2, 2), domains=3)


def test_as_many_tasks_as_domains_and_no_others():
    assert DomainIncremental().length(Split(2, 3), domains=3) == 3
    assert DomainIncremental().length(Split(2, 5, tasks_given=False), domains=3) == 3, "the default"
    with pytest.raises(ConfigurationError, match=r"benchmark\.tasks is 5, but .* each of 3 domains: leave it out"):
        DomainIncremental().length(Split(2, 5), domains=3)
    with pytest.raises(ConfigurationError, match=r"benchmark\.tasks is 7, but .* each of 2 domains: leave it out"):
        DomainIncremental().length(Split(10, 7), domains=2)
    for option, value in (("first_task", 4), ("classes_per_task", [5, 5])):
        with pytest.raises(ConfigurationError, match=rf"benchmark\.{option} is .*each domain is a task: leave it out"):
            DomainIncremental().length(Split(10, 5, **{option: value}), domains=2)


@settings(max_examples=20)
@given(seed=st.integers(0, 5), domain=st.integers(0, 4), height=st.integers(1, 5), width=st.integers(1, 5))
def test_permuted_pixels_are_the_same_pixels_in_one_other_order(seed, domain, height, width):
    count = height * width
    images = torch.arange(2 * count, dtype=torch.uint8).view(1, 2, height, width).repeat(3, 1, 1, 1)
    changed = PermutedPixels().images(images, domain, 5, seed)
    assert changed.shape == images.shape
    assert torch.equal(changed[0], changed[1]), "all images alike"
    first, second = changed[0].flatten(1).tolist()
    assert sorted(first) == list(range(count))
    assert second == [pixel + count for pixel in first], "all channels alike"
    assert torch.equal(changed, PermutedPixels().images(images, domain, 5, seed))


def test_permutations_differ_by_domain_and_seed_and_the_first_may_be_none():
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    drawn = [PermutedPixels().images(images, *place) for place in ((0, 3, 0), (1, 3, 0), (0, 3, 1))]
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == 3
    assert torch.equal(PermutedPixels(first=False).images(images, 0, 3, 0), images)
    assert not torch.equal(PermutedPixels(first=False).images(images, 1, 3, 0), images)


def test_even_angles_are_equal_steps():
    assert [RotatedImages(90).angle(domain, 3, 0) for domain in range(3)] == [0, 30, 60]


@given(seed=st.integers(0, 100), domain=st.integers(0, 3), largest=st.floats(1, 360))
def test_angles_are_drawn_from_their_range_or_from_all(seed, domain, largest):
    low, high = largest * domain / 4, largest * (domain + 1) / 4
    assert low <= RotatedImages(largest, "ranges").angle(domain, 4, seed) <= high
    assert 0 <= RotatedImages(largest, "drawn").angle(domain, 4, seed) <= largest


def test_a_quarter_turn_moves_pixels_and_nothing_else():
    images = torch.randint(256, (2, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(RotatedImages(180).images(images, 1, 2, 0), images.rot90(1, (2, 3)))
    assert torch.equal(RotatedImages(180).images(images, 0, 2, 0), images)


@pytest.mark.parametrize("largest", [0.0, -5.0, 361.0])
def test_impossible_angles_are_refused(largest):
    with pytest.raises(ConfigurationError, match=r"stream\.largest is .* above 0 and at most 360"):
        RotatedImages(largest)
