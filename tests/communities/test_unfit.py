"""Models that no graph can be made of: one line that says what it is, and the remedy."""

import re

import pytest
import torch
import torch.distributed as dist
from exactness import Net
from torch import nn
from torch.ao import quantization
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import natsel
from natsel.communities.labels.propagation import RULES

pytestmark = pytest.mark.filterwarnings("ignore")
VEC, SEQ = torch.randn(2, 4), torch.randn(2, 5, 4)
LENGTHS = torch.tensor([5, 3])


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def told(model, inputs, **options):
    """Return the one line that a refused model gets, from both doors; it is left as it was."""
    lines = []
    doors = (natsel.discover, natsel.as_program) if not options else (natsel.discover,)
    for door in doors:
        with pytest.raises(ValueError, match=r"=.* (is not allowed: expected|cannot be)") as error:
            door(model, inputs, **options)
        lines.append(str(error.value))
    assert len({re.sub(r" at \S+:\d+ .*", "", line) for line in lines}) == 1
    assert len(lines[0].splitlines()) == 1
    assert "tensor(" not in lines[0]
    assert len(lines[0]) < 400
    return lines[0]


def dynamic(model):
    return quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def static():
    stubs = quantization.QuantStub(), quantization.DeQuantStub()
    model = nn.Sequential(stubs[0], nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), stubs[1]).eval()
    model.qconfig = quantization.get_default_qconfig("x86")
    quantization.prepare(model, inplace=True)
    model(VEC)
    return quantization.convert(model, inplace=True)


def in_part(convert):
    model = mlp()
    model[2] = convert(model[2])
    return model


def with_weight(convert):
    model = mlp()
    model[2].weight = nn.Parameter(convert(model[2].weight.detach()), requires_grad=False)
    return model


def with_quantised_tensor():
    model = mlp()
    codes = torch.quantize_per_tensor(torch.randn(6, 8), 0.01, 0, torch.qint8)
    model.register_buffer("codes", codes)
    return model


def inference():
    with torch.inference_mode():
        return mlp()


REFUSED = {
    "dynamic int8": (lambda: dynamic(mlp()), ("model='Linear at 0'", "quantised")),
    "int8 in part": (
        lambda: in_part(lambda m: dynamic(nn.Sequential(m))),
        ("model='Linear at 2.0'", "quantised"),
    ),
    "static int8": (static, ("quantised", "then quantise the small one")),
    "a quantised tensor": (with_quantised_tensor, ("model.codes=", "qint8", "quantised")),
    "TorchScript": (
        lambda: torch.jit.script(mlp()),
        ("model='RecursiveScriptModule'", "the nn.Module that was compiled"),
    ),
    "a trace": (lambda: torch.jit.trace(mlp(), VEC), ("the nn.Module that was compiled",)),
    "TorchScript in part": (
        lambda: in_part(torch.jit.script),
        ("model='RecursiveScriptModule at 2'", "the nn.Module that was compiled"),
    ),
    "an exported program": (
        lambda: torch.export.export(mlp(), (VEC,)).module(),
        ("model='GraphModule'", "the nn.Module that was exported"),
    ),
    "meta": (lambda: mlp().to("meta"), ("model.0.weight=", "without data (meta)", "load them")),
    "meta in part": (lambda: in_part(lambda m: m.to("meta")), ("model.2.weight=", "(meta)")),
    "a lazy layer": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.LazyLinear(3)),
        ("model.1.weight='not initialised'", "ran once"),
    ),
    "sparse": (
        lambda: with_weight(torch.Tensor.to_sparse),
        ("model.2.weight='sparse_coo'", ".to_dense()"),
    ),
    "sparse rows": (
        lambda: with_weight(torch.Tensor.to_sparse_csr),
        ("model.2.weight='sparse_csr'", ".to_dense()"),
    ),
    "a class of tensors without a copy": (
        lambda: with_weight(lambda w: w.as_subclass(type("Coded", (torch.Tensor,), {}))),
        ("model.2.weight='a Coded'", "prune first"),
    ),
    "inference mode": (inference, ("model.0.weight=", "inference mode", "outside")),
    "no module": (lambda: "resnet20", ("model='str'", "torch.nn.Module")),
    "a function": (lambda: torch.relu, ("torch.nn.Module",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_is_and_what_helps(name):
    build, parts = REFUSED[name]
    line = told(build(), VEC)
    for part in parts:
        assert part in line


def test_a_lazy_model_stays_lazy():
    model = nn.Sequential(nn.Linear(4, 8), nn.LazyLinear(3))
    told(model, VEC)
    assert isinstance(model[1], nn.LazyLinear)


def test_inputs_without_data():
    assert "without data (meta)" in told(mlp(), VEC.to("meta"))


def test_without_proof_no_data_is_needed():
    communities = natsel.discover(mlp().to("meta"), VEC.to("meta"), proof=False)
    assert {c.name: c.size for c in communities.values()} == {"0": 8, "2": 6}
    assert "(meta)" in told(in_part(lambda m: m.to("meta")), VEC, proof=False)


# Sharded over processes; one process is enough to see it.


@pytest.fixture
def process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield dist.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_fully_shard(process):
    model = mlp()
    expected = natsel.discover(model, VEC)
    fully_shard(model[0], mesh=process)
    with pytest.raises(ValueError, match=r"FSDPLinear at 0.*before that"):
        natsel.as_program(model, VEC)
    fully_shard(model, mesh=process)
    kinds = [type(m) for m in model.modules()]
    for proof in (True, False):
        found = natsel.discover(model, VEC, proof=proof)
        assert found.model is model
        assert repr(found) == repr(expected)
        assert found.price() == expected.price()
    assert [type(m) for m in model.modules()] == kinds
    model(VEC).sum().backward()


def test_compensation_of_what_is_sharded(process):
    model = mlp()
    communities = natsel.discover(model, VEC)
    survivors = natsel.select(natsel.score(communities, "magnitude"), natsel.Sparsity(0.5))
    small = natsel.extract(model, survivors)
    fully_shard(model, mesh=process)
    with pytest.raises(ValueError, match=r"model='\w+' .*compensate before fully_shard"):
        natsel.compensate(model, small, survivors, [(torch.randn(4, 4),)])


def test_of_blocks_that_are_alike_one_is_gathered(process, monkeypatch):
    torch.manual_seed(0)

    def block(width):
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 6))

    model = nn.Sequential(nn.Linear(6, 6), *(block(n) for n in (8, 8, 5, 8, 8)), nn.Linear(6, 2))
    sizes = [sum(p.numel() for p in part.parameters()) for part in model]
    expected = natsel.discover(model, torch.zeros(2, 6))
    for part in model:
        fully_shard(part, mesh=process)
    fully_shard(model, mesh=process)
    gathered = []

    def whole(tensor):
        gathered.append(tensor.numel())
        return tensor.full_tensor().clone()

    monkeypatch.setattr("natsel.communities.gathering.whole", whole)
    found = natsel.discover(model, torch.zeros(2, 6))
    assert repr(found) == repr(expected)
    assert [c.size for c in found.values()] == [c.size for c in expected.values()]
    # All that was ever gathered, so more than what was there at once.
    assert sum(gathered) == sizes[0] + sizes[1] + sizes[3] + sizes[-1] < sum(sizes)


def test_fully_shard_whose_processes_are_gone(tmp_path):
    store = f"file://{tmp_path}/group"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    model = fully_shard(mlp())
    dist.destroy_process_group()
    with pytest.raises(ValueError, match="and no process group is initialised") as error:
        natsel.discover(model, VEC)
    assert "torchrun" in str(error.value)
    assert "\n" not in str(error.value)


def test_fully_shard_of_what_is_spread_by_tensor_parallelism(process):
    model = parallelize_module(mlp(), process, {"0": ColwiseParallel()})
    fully_shard(model[2], mesh=process)
    with pytest.raises(ValueError, match=r"0\.weight is a DTensor spread by tensor parallelism"):
        natsel.discover(model, VEC)


def test_tensor_parallel(process):
    model = parallelize_module(mlp(), process, {"0": ColwiseParallel()})
    line = told(model, VEC)
    assert "model.0.weight='a DTensor'" in line
    assert "sharded" in line


def test_the_wrapper_of_the_first_fsdp():
    # It asks for an accelerator; the class alone tells.
    wrapped = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped._fsdp_wrapped_module = mlp()
    assert "model='FullyShardedDataParallel at 0'" in told(nn.Sequential(wrapped), VEC)


def test_distributed_data_parallel_is_looked_through(process):
    model = nn.parallel.DistributedDataParallel(mlp())
    assert list(natsel.discover(model, VEC)) == ["0", "2"]


# Packed sequences.


def padded_again(self, x):
    packed = pack_padded_sequence(x, LENGTHS, batch_first=True)
    return self.o(pad_packed_sequence(self.l(packed)[0], batch_first=True)[0])


def last_state(self, x, lengths):
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return self.o(self.l(packed)[1][-1])


@pytest.mark.parametrize(
    ("forward", "kind", "inputs"),
    [(padded_again, nn.LSTM, (SEQ,)), (last_state, nn.GRU, (SEQ, LENGTHS))],
)
def test_packed_sequences(forward, kind, inputs):
    net = Net(forward, l=kind(4, 8, batch_first=True), o=nn.Linear(8, 3))
    line = told(net, inputs)
    assert "packs sequences (nn.utils.rnn.PackedSequence)" in line
    assert "test_unfit.py" in line
    assert "on the padded tensor" in line


def test_a_packed_sequence_as_input():
    packed = pack_padded_sequence(SEQ, LENGTHS, batch_first=True)
    net = Net(lambda s, x: s.o(s.l(x)[1][-1]), l=nn.GRU(4, 8, batch_first=True), o=nn.Linear(8, 3))
    for inputs in (packed, (packed,), {"x": packed}):
        line = told(net, inputs)
        assert "example_inputs='a PackedSequence'" in line
        assert "pad_packed_sequence" in line


def test_control_flow_gets_its_own_remedy():
    net = Net(lambda s, x: s.a(x) if x.sum() > 0 else x, a=nn.Linear(4, 4))
    assert "control flow" in told(net, VEC)


# Complex numbers.


def test_complex_weights_stay_whole_and_the_rest_is_offered():
    def forward(self, x):
        y = self.c(self.a(x).relu().to(torch.complex64))
        return self.e(self.d(torch.view_as_real(self.b(y)).flatten(1)).relu())

    net = Net(
        forward,
        a=nn.Linear(4, 5),
        c=nn.Linear(5, 6, dtype=torch.complex64),
        b=nn.Linear(6, 3, dtype=torch.complex64),
        d=nn.Linear(6, 8),
        e=nn.Linear(8, 2),
    )
    communities = natsel.discover(net, VEC)
    assert "d" in communities
    assert "c" not in communities
    refusal = {r.name: r for r in communities.refused}["c"]
    assert "is complex" in refusal.reason
    assert "view_as_real" in refusal.remedy


class Keypoints(nn.Module):
    """Places above a threshold, as SuperPoint returns them."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3))

    def forward(self, x):
        scores = self.features(x)[0, 0]
        places = torch.nonzero(scores > 0)
        return places, scores[tuple(places.t())]


def test_how_many_values_there_are_depends_on_data():
    with pytest.raises(ValueError, match=r"^model=Keypoints .*aten.nonzero.* at .*remedy") as error:
        natsel.discover(Keypoints(), torch.randn(1, 1, 8, 8))
    assert len(str(error.value).splitlines()) == 1
    found = natsel.discover(Keypoints().features, torch.randn(1, 1, 8, 8))
    assert [c.size for c in found.values()] == [4]


def test_what_a_rule_did_not_foresee_is_left_whole(monkeypatch):
    def fails(run, node, *args):
        raise RuntimeError("no such axis\nin a trace")

    monkeypatch.setitem(RULES, "aten.relu.default", fails)
    found = natsel.discover(nn.Sequential(*mlp()[:3], nn.Tanh(), nn.Linear(6, 3)), VEC)
    assert [c.name for c in found.values()] == ["2"]
    (told,) = [r.reason for r in found.refused if r.name == "0"]
    assert "the rule for aten.relu.default fails" in told
    assert told.endswith("no such axis")
