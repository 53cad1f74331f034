import torch

from cl_ac.sparse_training.heads import SparseLinear
from cl_ac.sparse_training.orthogonal import orthogonality_error


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grown(*sizes: int, gain: float | None = 1.0) -> SparseLinear:
    classifier = SparseLinear(32, 0.25, gain)
    for task, size in enumerate(sizes):
        classifier.grow(size, stream(task))
    return classifier


def test_rows_of_a_task_are_sparse_and_orthogonal():
    classifier = grown(5, 3, gain=2.0)
    for rows in classifier.weight.split([5, 3]):
        assert orthogonality_error(rows, gain=2.0) < 1e-6
        assert abs((rows != 0).float().mean() - 0.25) < 0.02


def test_masks_of_old_classes_stay_when_new_ones_come():
    classifier = grown(5)
    rows, mask = classifier.weight.clone(), classifier.mask.clone()
    classifier.grow(3, stream(1))
    assert torch.equal(classifier.weight[:5], rows)
    assert torch.equal(classifier.mask[:5], mask)
    assert classifier.mask.shape == (8, 32)


def test_masked_weights_never_learn():
    classifier = grown(4, 2)
    optimizer = torch.optim.SGD(classifier.parameters(), 0.1, 0.9, weight_decay=0.1)
    for _ in range(5):
        classifier(torch.randn(8, 32)).square().sum().backward()
        optimizer.step()
    raw = torch.cat([classifier.old_weight, classifier.new_weight])
    assert (raw[~classifier.mask] == 0).all()
    assert torch.equal(classifier.weight, raw)


def test_logits_are_those_of_the_sparse_rows():
    classifier, features = grown(4, 2, gain=None), torch.randn(3, 32)
    assert (classifier.weight != 0).float().mean() < 0.3
    torch.testing.assert_close(classifier(features), features @ classifier.weight.T + classifier.bias)


def test_new_columns_are_sparse_and_new_draws_keep_the_mask():
    classifier = grown(40, 20)
    before = classifier.mask.clone()
    classifier.widen(96, stream())
    assert torch.equal(classifier.mask[:, :32], before)
    assert abs(classifier.mask[:, 32:].float().mean() - 0.25) < 0.03
    classifier.reset(stream(7))
    assert ((classifier.old_weight == 0) == ~classifier.old_mask).all()


def test_a_state_of_any_size_is_taken_over():
    saved = grown(4, 2)
    fresh = SparseLinear(32, 0.25, 1.0)
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh.weight, saved.weight)
    assert torch.equal(fresh.mask, saved.mask)
