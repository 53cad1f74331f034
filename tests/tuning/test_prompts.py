"""Prompts of earlier tasks are kept as they were."""

import pytest
import torch

from cl_ac.tuning.prompts import TaskPrompts


@pytest.fixture
def prompts() -> TaskPrompts:
    return TaskPrompts(keys=(4,), values=(2, 3))


def test_prompts_of_earlier_tasks_are_frozen(prompts):
    first, second = (torch.randn(count, 4) for count in (2, 1))
    prompts.grow(keys=first, values=torch.randn(2, 2, 3))
    prompts.grow(keys=second, values=torch.randn(1, 2, 3))
    prompts.all("keys", new_too=True).sum().backward()
    assert prompts.old_keys.grad is None
    assert not prompts.old_keys.requires_grad
    assert torch.equal(prompts.old_keys, first)
    assert torch.equal(prompts.new_keys.grad, torch.ones(1, 4))


def test_prompts_take_part_from_their_first_lesson_on(prompts):
    prompts.grow(keys=torch.ones(2, 4), values=torch.ones(2, 2, 3))
    assert len(prompts.all("keys")) == 0
    with prompts.learning():
        assert len(prompts.all("keys")) == 2
    assert len(prompts.all("keys")) == 2
    prompts.grow(keys=torch.zeros(1, 4), values=torch.zeros(1, 2, 3))
    assert torch.equal(prompts.all("keys"), torch.ones(2, 4))


def test_a_state_of_any_task_is_taken_over(prompts):
    for count in (2, 3):
        prompts.grow(keys=torch.randn(count, 4), values=torch.randn(count, 2, 3))
    with prompts.learning():
        pass
    other = TaskPrompts(keys=(4,), values=(2, 3))
    other.load_state_dict(prompts.state_dict())
    assert other.take_part
    assert torch.equal(other.all("keys"), prompts.all("keys"))
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in prompts.parameters()]
