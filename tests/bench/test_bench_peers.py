"""The bench of peers: how every outcome is told apart, without a peer."""

import copy
import json

import pytest
import torch
from torch import nn

from natsel_bench import peers_table as bench
from natsel_bench.peers.case import Case, run_apart, run_here
from natsel_bench.peers.networks import Heads, hints, make, names
from natsel_bench.peers.reference import distinct_, masked_logits, removed, without_reference
from natsel_bench.peers.tools import TOOLS
from natsel_bench.peers.verdict import Verdict, judge
from natsel_bench.peers.words import MEANINGS, OUTCOMES, cell, sentences, table, to_markdown
from natsel_bench.zoo.traps import TRAPS, build_trap, net


def fake(name):
    return f"bench.fake_tools:{name}"


@pytest.mark.parametrize(
    ("tool", "outcome"),
    [
        ("Exact", "exact"),
        ("Different", "different"),
        ("Broken", "broken"),
        ("ChangedOutputs", "changed outputs"),
        ("Nothing", "nothing"),
        ("SaysNo", "refused"),
        ("Raises", "error"),
    ],
)
def test_every_outcome_is_told_apart(tool, outcome):
    found = run_here(Case(fake(tool), "mlp", 60))
    assert found["outcome"] == outcome
    assert found["seconds"] >= 0
    if outcome == "exact":
        # 784*512 + 512 + 512*256 + 256 + 256*10 + 10 parameters; two neurons of 256 go.
        assert found["share"] == pytest.approx(2 * (512 + 1 + 10) / 535818)
        assert found["difference"] < 1e-12
        assert found["left_whole"] == ["something: because"]
    if outcome == "different":
        assert found["difference"] > 1e-3


def test_reasons_are_one_line():
    assert run_here(Case(fake("SaysNo"), "flip", 60))["reason"] == "a flip is not known"
    assert run_here(Case(fake("Raises"), "flip", 60))["reason"] == "KeyError: 'oh'"


def test_nothing_removed_with_a_reason_is_a_refusal(monkeypatch):
    monkeypatch.setattr("bench.fake_tools.Exact.cut", lambda *_: None)
    found = run_here(Case(fake("Exact"), "flip", 60))
    assert (found["outcome"], found["reason"]) == ("refused", "something: because")


@pytest.mark.parametrize(("tool", "loads"), [("Exact", True), ("Pickles", False)])
def test_loading_may_not_run_pickled_code(tool, loads):
    assert run_here(Case(fake(tool), "mlp", 60, saved=True))["reloads"] is loads


@pytest.mark.parametrize(
    ("tool", "wall", "limit", "outcome", "reason"),
    [
        ("Hangs", 1, 3, "time-out", "killed after 3 s"),
        ("Spins", 60, 1, "time-out", "killed after 1 s"),
        ("Dies", 1, 60, "error", "the process ended with 7"),
    ],
)
def test_a_hang_or_a_crash_harms_only_its_case(monkeypatch, tool, wall, limit, outcome, reason):
    monkeypatch.setattr("natsel_bench.peers.case.WALL", wall)
    found = run_apart(Case(fake(tool), "mlp", limit))
    assert (found["outcome"], found["reason"]) == (outcome, reason)
    assert (found["tool"], found["network"]) == (fake(tool), "mlp")


def test_every_number_is_distinct_and_the_removed_ones_are_seen():
    dense = distinct_(nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.Linear(20, 3)))
    for tensor in (*dense.parameters(), dense[1].running_mean, dense[1].running_var):
        assert tensor.unique().numel() == tensor.numel()
    assert float(dense[1].running_var.min()) > 0.1
    small = copy.deepcopy(dense)
    small[2].weight = nn.Parameter(dense[2].weight[:, [0, 4, 5]].detach())
    gone = removed(dense, small)
    assert list(gone) == ["2.weight"]
    expected = torch.ones(3, 20, dtype=torch.bool)
    expected[:, [0, 4, 5]] = False
    assert torch.equal(gone["2.weight"], expected)


def test_the_reference_is_the_dense_network_with_zeros():
    dense = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        dense[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        dense[0].bias.copy_(torch.tensor([5.0, 6.0]))
        dense[1].weight.copy_(torch.tensor([[7.0, 8.0]]))
        dense[1].bias.copy_(torch.tensor([9.0]))
    gone = {"1.weight": torch.tensor([[True, False]])}
    # 8 * (3 + 4 + 6) + 9
    assert masked_logits(dense, gone, (torch.ones(1, 2),)).tolist() == [[113.0]]
    assert dense[1].weight.tolist() == [[7.0, 8.0]]


def test_a_network_without_float64_is_judged_in_its_own_precision():
    def forward(m, x):
        if x.dtype == torch.float64:
            raise RuntimeError("no such kernel")
        return m.b(m.a(x))

    dense = distinct_(net(forward, a=nn.Linear(2, 4), b=nn.Linear(4, 1)))
    small = copy.deepcopy(dense)
    small.a.weight = nn.Parameter(dense.a.weight[1:].detach())
    small.a.bias = nn.Parameter(dense.a.bias[1:].detach())
    small.b.weight = nn.Parameter(dense.b.weight[:, 1:].detach())
    assert judge(dense, small, (torch.ones(1, 2),)).outcome == "exact"


def test_a_removed_expert_gets_no_token():
    class Router(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[1.0], [2.0], [3.0]]))

        def forward(self, x):
            return nn.functional.linear(x, self.weight).softmax(-1)

    model = net(lambda m, x: m.gate(x), gate=Router())
    gone = {"gate.weight": torch.tensor([[False], [True], [False]])}
    found = masked_logits(model, gone, (torch.ones(1, 1),))
    assert torch.allclose(found, torch.tensor([[1.0, -torch.inf, 3.0]]).softmax(-1).double())


@pytest.mark.parametrize(
    ("norm", "left", "fair"),
    [
        (nn.LayerNorm(8), nn.LayerNorm(4), False),
        (nn.RMSNorm(8), nn.RMSNorm(4), False),
        (nn.GroupNorm(2, 8), nn.GroupNorm(2, 4), False),
        (nn.GroupNorm(4, 8), nn.GroupNorm(2, 4), True),
        (nn.BatchNorm1d(8), nn.BatchNorm1d(4), True),
    ],
)
def test_norms_over_removed_units_have_no_reference(norm, left, fair):
    found = without_reference(nn.Sequential(norm), nn.Sequential(left))
    assert (found is None) is fair


def test_no_reference_where_the_network_has_none():
    dense, inputs = make("softmax")
    small = copy.deepcopy(dense)
    small.a.weight = nn.Parameter(dense.a.weight[:4].detach())
    small.a.bias = nn.Parameter(dense.a.bias[:4].detach())
    small.out.weight = nn.Parameter(dense.out.weight[:, :4].detach())
    assert judge(dense, small, inputs, has_reference=False).outcome == "no reference"
    assert judge(dense, small, inputs).outcome == "different"


def test_a_renamed_parameter_cannot_be_judged():
    dense = distinct_(nn.Sequential(nn.Linear(2, 2)))
    other = nn.ModuleDict({"a": nn.Linear(2, 2)})
    assert judge(dense, other, (torch.ones(1, 2),)).outcome == "no reference"


@pytest.mark.parametrize("name", TRAPS)
def test_traps_run_and_name_their_outputs(name):
    model, inputs = build_trap(name)
    before = model(*inputs)
    for output in hints(name, model).outputs:
        layer = model.get_submodule(output)
        with torch.no_grad():
            layer.bias += 1
    changed = not torch.equal(model(*inputs), before)
    assert changed is bool(TRAPS[name].outputs)
    again, same = build_trap(name)
    assert torch.equal(again(*same), before)


def test_hints_describe_attention():
    model, _ = make("fused queries, keys, values")
    heads = Heads("qkv", "", "", 4, 4, "", ("heads",), ("head_dim",))
    assert hints("fused queries, keys, values", model).heads == (heads,)
    model, _ = make("vit")
    said = hints("vit", model)
    assert (said.outputs, said.width) == (("head",), "embedding")
    assert [h.queries for h in said.heads] == [f"blocks.{i}.attention.qkv" for i in (0, 1)]
    assert {(h.num_queries, h.num_keys) for h in said.heads} == {(4, 4)}


def test_hints_describe_grouped_heads():
    pytest.importorskip("transformers")
    model, _ = make("hf-llama")
    first = hints("hf-llama", model).heads[0]
    assert (first.num_queries, first.num_keys) == (8, 4)
    assert first.queries == "model.layers.0.self_attn.q_proj"


def test_every_network_has_outputs_and_parts_by_the_names_in_the_hints():
    pytest.importorskip("transformers")
    for name in names():
        model, _ = make(name)
        said = hints(name, model)
        for part in (*said.outputs, *([said.width] if said.width else [])):
            assert isinstance(model.get_submodule(part), nn.Module)


def test_compare_is_cached_and_complete(tmp_path, monkeypatch):
    ran = []
    work = run_here
    monkeypatch.setattr(
        bench, "run_apart", lambda case: ran.append(case) or vars(case) | work(case)
    )
    tools, networks = ("natsel", fake("Raises")), {"mlp": "architecture", "flip": "trap"}
    first = bench.compare(tmp_path, tools, networks, limit=60, large="mlp")
    assert [(r["network"], r["tool"], r["list"], r["outcome"]) for r in first["rows"]] == [
        ("mlp", "natsel", "architecture", "exact"),
        ("mlp", fake("Raises"), "architecture", "error"),
        ("flip", "natsel", "trap", "exact"),
        ("flip", fake("Raises"), "trap", "error"),
    ]
    assert [(t["tool"], t["outcome"], t["num_runs"]) for t in first["times"]] == [
        ("natsel", "ran", 3),
        (fake("Raises"), "error", 1),
    ]
    assert first["sentences"][0] == "natsel: 1 of 1 common architectures exact."
    assert first["rows"][0]["reloads"] is True
    assert len(ran) == 4 + 2 + 1 + 1
    ran.clear()
    second = bench.compare(tmp_path, tools, networks, limit=60, large="mlp")
    assert ran == []
    assert second["rows"] == first["rows"]
    assert "| mlp | exact | error |" in to_markdown(second)
    json.dumps(second, allow_nan=False)


def test_words():
    rows = [
        {"tool": t, "network": n, "list": "trap", "outcome": o, "difference": d, "reason": ""}
        for t, n, o, d in [
            ("a", "flip", "exact", 0.0),
            ("a", "roll", "refused", None),
            ("b", "flip", "different", 0.5),
        ]
    ]
    assert sentences(rows) == [
        "a: 1 of 2 traps exact; 1 refused.",
        "b: 0 of 1 traps exact; 1 different.",
    ]
    assert table(rows) == (
        ["network", "a", "b"],
        [["flip", "exact", "different by 50.0%"], ["roll", "refused", ""]],
    )
    assert cell({"outcome": "different", "difference": None}) == "different"
    assert set(MEANINGS) == set(OUTCOMES)
    assert Verdict("exact").reason == ""


def test_the_run_writes_its_files_and_refuses_to_mix(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "names", lambda: {"mlp": "architecture"})
    monkeypatch.setattr(bench, "run_apart", lambda case: vars(case) | run_here(case))
    out = tmp_path / "peers"
    result = bench.bench_peers(out, tools=["natsel"], quick=True)
    assert json.loads((out / "peers.json").read_text()) == json.loads(json.dumps(result))
    assert (out / "peers.md").read_text().startswith("# natsel and its peers\n\n- natsel: 1 of 1")
    with pytest.raises(ValueError, match="--resume to go on"):
        bench.bench_peers(out, tools=["natsel"], quick=True)
    with pytest.raises(ValueError, match="of other limit"):
        bench.bench_peers(out, tools=["natsel"], quick=True, limit=5, resume=True)
    again = bench.bench_peers(out, tools=["natsel"], quick=True, resume=True)
    assert again["rows"] == result["rows"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tools": ["torch-prunning"]}, "did you mean 'torch-pruning'"),
        ({"limit": 0.0}, "^limit=0.0"),
    ],
)
def test_refuses(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        bench.bench_peers(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tool", [t for t in TOOLS if "pruning" in t])
def test_torch_pruning_is_used_as_documented(tool):
    pytest.importorskip("torch_pruning")
    found = run_here(Case(tool, "mlp", 60))
    expected = "changed outputs" if tool == "torch-pruning" else "exact"
    assert found["outcome"] == expected


@pytest.mark.parametrize("tool", [t for t in TOOLS if "kirigami" in t])
def test_torch_kirigami_is_used_as_documented(tool):
    pytest.importorskip("torch_kirigami")
    assert run_here(Case(tool, "flatten", 60))["outcome"] == "exact"
