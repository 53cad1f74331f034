"""The contrastive losses, against torch's cross-entropy and a sum by hand."""

import pytest
import torch
import torch.nn.functional as F

from cl_ac.retrieval.contrast import similarity_distillation, symmetric_contrast

SIMILARITIES = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 0.3], [0.4, -0.2, 0.1]])


def test_with_one_partner_each_it_is_the_loss_of_clip():
    targets = torch.arange(3)
    expected = (F.cross_entropy(SIMILARITIES, targets) + F.cross_entropy(SIMILARITIES.T, targets)) / 2
    assert symmetric_contrast(SIMILARITIES, torch.eye(3, dtype=torch.bool)).item() == pytest.approx(expected.item())


def test_several_partners_share_the_probability():
    matches = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    total = 0.0
    for rows in (SIMILARITIES, SIMILARITIES.T):
        logs = rows.softmax(1).log()
        total += -((logs[0, 0] + logs[0, 1]) / 2 + (logs[1, 0] + logs[1, 1]) / 2 + logs[2, 2]) / 3
    assert symmetric_contrast(SIMILARITIES, matches).item() == pytest.approx(float(total) / 2)


def test_distillation_is_zero_where_nothing_moved_and_a_divergence_elsewhere():
    assert similarity_distillation(SIMILARITIES, SIMILARITIES).item() == pytest.approx(0, abs=1e-6)
    moved = SIMILARITIES + torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    parts = []
    for now, was in ((moved, SIMILARITIES), (moved.T, SIMILARITIES.T)):
        p, q = was.softmax(1), now.softmax(1)
        parts.append((p * (p / q).log()).sum(1).mean())
    assert similarity_distillation(moved, SIMILARITIES).item() == pytest.approx(float(sum(parts)) / 2, rel=1e-5)
