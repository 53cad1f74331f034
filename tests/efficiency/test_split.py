import pytest
import torch
from torch import nn

from cl_ac.backbones.feed_forward import find_feed_forwards
from cl_ac.backbones.vit import MLP
from cl_ac.efficiency import split as splitting
from cl_ac.efficiency.split import (
    coactivation,
    coactivation_split,
    expert_weights,
    experts_of_size,
    inertia,
    kmeans_split,
    random_split,
)
from cl_ac.errors import ConfigurationError, UserError
from cl_ac.kernels.experts import dense_ffn


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clustered(groups: int, each: int, width: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Shuffled directions around `groups` centres, and the centre of each."""
    centres = torch.randn(groups, width, generator=stream(1))
    owners = torch.arange(groups).repeat(each)[torch.randperm(groups * each, generator=stream(2))]
    return centres[owners] + noise * torch.randn(len(owners), width, generator=stream(3)), owners


def is_partition(split: torch.Tensor, neurons: int) -> bool:
    ascending = bool((split.diff(dim=1) > 0).all())
    return ascending and split.flatten().sort().values.tolist() == list(range(max(neurons, split.numel())))


@pytest.mark.parametrize("exact", [False, True])
def test_kmeans_finds_clusters_whatever_their_lengths(exact):
    rows, owners = clustered(6, 8, 16, 0.1)
    rows = rows * torch.rand(len(rows), 1, generator=stream(4)).add(0.1)
    split = kmeans_split(rows, 6, stream(), exact=exact)
    assert is_partition(split, 48)
    assert all(len(owners[members].unique()) == 1 for members in split)


def test_kmeans_is_repeatable_and_the_auction_is_as_good_as_the_optimum():
    rows = torch.randn(240, 32, generator=stream(5))
    fast, slow = kmeans_split(rows, 10, stream()), kmeans_split(rows, 10, stream(), exact=True)
    assert torch.equal(fast, kmeans_split(rows, 10, stream()))
    assert inertia(rows, fast) < 1.01 * inertia(rows, slow)
    assert inertia(rows, fast) < 0.97 * inertia(rows, random_split(240, 10, stream()))


def test_coactivation_counts_groups_of_eight_tokens():
    hidden = torch.zeros(9, 3)
    hidden[0, :2], hidden[7, :2], hidden[8, 1:] = 3.0, 1.0, 0.5
    hidden[3, 2] = -4.0
    expected = torch.tensor([[1, 1, 0], [1, 1.25, 0.25], [0, 0.25, 0.25]])
    torch.testing.assert_close(coactivation(hidden), expected)


def test_neurons_that_fire_together_become_one_expert():
    owners = torch.arange(4).repeat(6)[torch.randperm(24, generator=stream(7))]
    topic = torch.randint(4, (600,), generator=stream(8))
    hidden = torch.rand(600, 24, generator=stream(9)) * (owners == topic[:, None])
    split = coactivation_split(hidden, 4, stream())
    assert is_partition(split, 24)
    assert all(len(owners[members].unique()) == 1 for members in split)


@pytest.mark.parametrize("neurons", [12, 13])
def test_splits_of_sizes_that_do_not_divide_hold_every_neuron_once(neurons):
    rows = torch.randn(neurons, 5, generator=stream(10))
    for split in (kmeans_split(rows, 5, stream()), random_split(neurons, 5, stream())):
        assert split.shape == (5, 3)
        assert is_partition(split, neurons)


class GLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(6, 13), nn.Linear(6, 13), nn.Linear(13, 6)
        self.activation = nn.SiLU()

    def forward(self, x):
        return self.down(self.activation(self.gate(x)) * self.up(x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("make", [lambda: MLP(6, 13), lambda: MLP(6, 13, bias=False), GLU])
def test_all_experts_together_are_the_ffn(make, dtype, tolerance):
    torch.manual_seed(0)
    model = nn.Sequential(make()).to(dtype)
    (ffn,) = find_feed_forwards(model).values()
    experts = expert_weights(ffn, kmeans_split(ffn.up, 4, stream()))
    assert experts.up.shape == (4, 4, 6)
    x = torch.randn(20, 6, dtype=dtype, generator=stream())
    expected = model(x)
    actual = dense_ffn(x, torch.ones(20, 4, dtype=torch.bool), experts)
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_an_activation_without_a_kernel_is_one_sentence():
    model = nn.Sequential(MLP(4, 8))
    model[0].activation = nn.Mish()
    (ffn,) = find_feed_forwards(model).values()
    with pytest.raises(ConfigurationError, match=r"the activation of '0' \(Mish\) has no kernel"):
        expert_weights(ffn, random_split(8, 2, stream()))


def test_weights_that_are_no_numbers_are_one_sentence():
    with pytest.raises(UserError, match="are not all finite numbers"):
        kmeans_split(torch.full((8, 3), torch.nan), 2, stream())


def test_sizes_of_experts():
    assert [experts_of_size(12, size) for size in (1, 5, 12)] == [12, 3, 1]
    for size in (0, 13):
        with pytest.raises(ConfigurationError, match=rf"experts\.size is {size}; with 12 neurons"):
            experts_of_size(12, size)


@pytest.mark.parametrize("row", [torch.zeros(1, 32), torch.ones(1, 32)])
def test_equal_rows_do_not_keep_the_clustering_going(monkeypatch, row):
    """Of pruned neurons, which are all zero, no round is the same as the one before."""
    rounds, assigned = [], splitting.auction
    monkeypatch.setattr(splitting, "auction", lambda *arguments: rounds.append(1) or assigned(*arguments))
    rows = torch.cat([torch.randn(144, 32, generator=stream()), row.expand(48, 32)])
    members = kmeans_split(rows, 12, stream())
    assert members.flatten().sort().values.equal(torch.arange(192))
    assert len(rounds) < 30, "it ends before the last round"
