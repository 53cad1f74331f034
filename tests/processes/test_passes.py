import pytest
import torch


@pytest.fixture(scope="module")
def found(in_processes, tmp_path_factory):
    """What each of two processes found: alone, together, and together with batch norm of its own."""
    file = tmp_path_factory.mktemp("passes") / "found"
    in_processes(2, "pass_checks.py", file)
    return [torch.load(f"{file}.{rank}") for rank in (0, 1)]


def test_a_shared_pass_gives_what_one_process_gives(found):
    alone, together = found[0]["alone"], found[0]["together"]
    for name in ("logits", "maps", "quiet"):
        torch.testing.assert_close(together[name], alone[name])


def test_gradients_are_those_of_one_process_whatever_the_loss_does_with_the_batch(found):
    alone, together = found[0]["alone"], found[0]["together"]
    gradients = {name for name in alone if name.endswith(("weight", "bias", "scale"))}
    assert len(gradients) == 9
    for name in gradients:
        assert alone[name].abs().sum() > 0
        torch.testing.assert_close(together[name], alone[name], msg=name)


def test_gradients_do_not_depend_on_how_many_are_exchanged_at_once(found):
    for name, value in found[0]["together"].items():
        assert torch.equal(value, found[0]["bucketed"][name]), name


def test_gradients_of_a_layer_are_exchanged_while_those_of_the_layer_below_are_computed(found):
    assert found[0]["order"] == found[1]["order"] == ["exchange", "2", "exchange", "1", "exchange", "0"]


def test_batch_norm_learns_the_statistics_of_the_whole_batch(found):
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(found[0]["together"][name], found[0]["alone"][name])


def test_batch_norm_may_keep_to_each_part(found):
    assert not torch.allclose(found[0]["apart"]["logits"], found[0]["alone"]["logits"])
    assert not torch.allclose(found[0]["apart"]["running_var"], found[1]["apart"]["running_var"])


def test_all_processes_hold_the_same_bits(found):
    for name, value in found[0]["together"].items():
        assert torch.equal(value, found[1]["together"][name]), name


def test_all_may_take_what_the_first_has(found):
    assert all(torch.equal(each["first"]["own"], torch.zeros(3)) for each in found)
