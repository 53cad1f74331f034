import torch

from cl_ac.data.seeding import generator, global_stream, key


def test_streams_differ_by_every_part_of_their_name():
    keys = {key(0, "order", 1, 2), key(1, "order", 1, 2), key(0, "exemplars", 1, 2), key(0, "order", 2, 1)}
    assert len(keys) == 4
    assert all(0 <= each < 2**63 for each in keys)


def test_the_same_name_gives_the_same_numbers():
    first, second = (torch.rand(3, generator=generator(3, "order", 1)) for _ in range(2))
    assert torch.equal(first, second)


def test_global_stream_leaves_the_global_generator_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with global_stream(0, "modules"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with global_stream(0, "modules"):
        assert torch.equal(torch.rand(2), inside)
