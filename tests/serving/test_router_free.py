import json

import pytest
import torch
from torch import nn

from cl_ac.cli.main import main
from cl_ac.efficiency.critical_sparsity import crossing
from cl_ac.efficiency.router_free import masked
from cl_ac.efficiency.sparsity_rules import TopK
from cl_ac.errors import ConfigurationError
from cl_ac.report.router_free import table
from cl_ac.serving.finished import finished
from cl_ac.serving.router_free import masks, sweep, tensors_to_mask


class GatedMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)
        self.act_fn = nn.SiLU()

    def forward(self, hidden):
        return self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))


def test_the_command_finds_critical_sparsities(vit_run, capsys):
    assert main(["convert", str(vit_run.path), "--router_free", "top_k", "--device", "cpu"]) == 0
    assert "top_k: sparsity up to which 99 % of the dense accuracy" in capsys.readouterr().out
    folder = vit_run.path / "convert"
    assert (folder / "router_free_top_k.png").exists()
    content = json.loads((folder / "router_free_top_k.json").read_text())
    assert set(content["curves"]) == {"input", "intermediate", "input + intermediate"}
    outputs = vit_run.outputs(1)
    dense = outputs.correct[-1].double().mean().item()
    run = finished(vit_run, "cpu")
    images = run.objects.benchmark.augmentation.apply(run.objects.benchmark.seen(run.last_task)[0].images)
    for name, curve in content["curves"].items():
        assert curve["dense"] == pytest.approx(dense)
        with masked(run.network, dict.fromkeys(name.split(" + "), TopK(0.5))) as induced, torch.no_grad():
            answers = run.objects.approach.correct(run.network(images))[-1].argmax(-1)
        (point,) = (each for each in curve["points"] if each["level"] == 0.5)
        assert point["sparsity"] == pytest.approx(induced.total())
        assert point["score"] == pytest.approx((answers == outputs.targets).double().mean().item())
    ranks = content["ranks"]
    assert (ranks["input"]["width"], ranks["intermediate"]["width"]) == (16, 64)
    assert all(1 <= each["effective_rank"] <= each["width"] for each in ranks.values())


@pytest.mark.parametrize("rule", ["top_p", "top_k", "max_p", "teal"])
def test_levels_go_from_dense_to_sparse(vit_run, rule):
    run = finished(vit_run, "cpu")
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    levels, masked_at = masks(run.network, rule, lambda network: network(images))
    found = []
    for level in levels:
        with masked_at(level, ("input", "intermediate")) as induced, torch.no_grad():
            run.network(images)
        found.append(induced.total())
    assert found == sorted(found)
    assert found[0] == pytest.approx(0, abs=1e-3)
    assert found[-1] > 0.9


def test_of_a_glu_all_tensors_are_masked():
    wanted = [("input",), ("up",), ("gate",), ("intermediate",), ("input", "intermediate")]
    assert tensors_to_mask(nn.Sequential(GatedMLP())) == wanted


def test_progress_and_another_share_of_the_accuracy(vit_run):
    seen = []
    swept = sweep(vit_run, "max_p", 0.5, "cpu", lambda *phase: seen.append(phase))
    assert seen[19] == ("masking input", 20, 20)
    for curve in swept.curves.values():
        sparsities, scores = zip(*((point.sparsity, point.score) for point in curve.points), strict=True)
        expected = crossing([0.0, *sparsities], [curve.dense, *scores], 0.5 * curve.dense)
        assert (curve.critical, curve.bounded) == expected
    assert table(swept).row_count == 3


def test_mistakes_are_one_sentence(vit_run, digits_run):
    with pytest.raises(ConfigurationError, match="router_free is 'best'; it must be one of top_p, top_k, max_p, teal"):
        sweep(vit_run, "best")
    conv = digits_run("--approach", "FineTuning", "--backbone", "SmallConvNet", "--training.epochs", "1")
    with pytest.raises(ConfigurationError, match="the model ExitNetwork has no feed-forward network"):
        sweep(conv, "top_p", device="cpu")
