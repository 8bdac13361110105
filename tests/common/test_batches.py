"""Batches of every form say the same, against loops written by hand on real models and loaders."""

import warnings

import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader

import natsel
from natsel.common.batches import gathered, is_causal, moved, read_batch
from natsel.common.padding import padded, without_padding

TOKENS, LENGTH, ROWS = 40, 9, 6
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=TOKENS, max_position_embeddings=16, num_key_value_heads=2, **SMALL
    )
    return transformers.LlamaForCausalLM(config).eval()


def bert(kind=transformers.BertForSequenceClassification):
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=TOKENS, max_position_embeddings=16, **SMALL)
    return kind(config).eval()


def vit():
    torch.manual_seed(0)
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=3, **SMALL)
    return transformers.ViTForImageClassification(config).eval()


def rows_of_text(labels, side="right"):
    """Rows of different length, padded to one, with labels of a kind."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for i in range(ROWS):
        there = torch.arange(LENGTH) < LENGTH - i % 4
        there = there if side == "right" else there.flip(0)
        ids = torch.randint(1, TOKENS, (LENGTH,), generator=generator) * there
        row = {"input_ids": ids, "attention_mask": there.long()}
        if labels == "tokens":
            row["labels"] = torch.where(there, ids, -100)
        elif labels == "class":
            row["labels"] = torch.tensor(i % 2)
        rows.append(row)
    return rows


def rows_of_images():
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "pixel_values": torch.randn(3, 8, 8, generator=generator),
            "labels": torch.tensor(i % 3),
        }
        for i in range(ROWS)
    ]


def last_layers(model):
    """Return each layer that reads hidden units, by the name of its community."""
    ends = (".mlp.down_proj", ".output.dense", ".mlp.fc2")
    found = {n: m for n, m in model.named_modules() if n.endswith(ends) and m.in_features == 12}
    assert len(found) == 2
    return list(found.values())


CASES = {
    "llama": (llama, lambda: rows_of_text("tokens")),
    "llama, padded left": (llama, lambda: rows_of_text("tokens", "left")),
    "bert": (bert, lambda: rows_of_text("class")),
    "bert, masked": (
        lambda: bert(transformers.BertForMaskedLM),
        lambda: rows_of_text("tokens"),
    ),
    "vit": (vit, rows_of_images),
}


def case(name):
    make, rows = CASES[name]
    model, loader = make(), DataLoader(rows(), batch_size=2)
    first = {n: v for n, v in next(iter(loader)).items() if n != "labels"}
    communities = natsel.discover(model, first).only("neuron")
    assert [c.size for c in communities.values()][:2] == [12, 12]
    return model, loader, communities


def entering(model, layer, loader):
    """Return what enters a layer at places that are data, by a loop written by hand."""
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    rows = []
    for batch in loader:
        with torch.no_grad():
            model(**{n: v for n, v in batch.items() if n != "labels"})
        x, mask = seen.pop(), batch.get("attention_mask")
        rows.append(x[mask.bool()] if mask is not None else x.flatten(0, 1))
    handle.remove()
    return torch.cat(rows)


@pytest.mark.parametrize("name", CASES)
def test_scores_of_the_librarys_own_loader_are_those_of_a_loop_by_hand(name):
    model, loader, communities = case(name)
    layers = last_layers(model)
    sums = [torch.zeros(12) for _ in layers]
    for batch in loader:
        loss = model(**batch).loss  # the library's own: it moves what is to be moved
        found = torch.autograd.grad(loss, [layer.weight for layer in layers])
        for total, layer, gradient in zip(sums, layers, found, strict=True):
            total += (layer.weight * gradient).sum(0).abs().detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taylor = natsel.score(communities, "taylor", data=loader)
        wanda = natsel.score(communities, "wanda", data=loader)
        single = natsel.weights(model, scorer="wanda", data=loader)
    for place, total, layer in zip(list(communities)[:2], sums, layers, strict=True):
        torch.testing.assert_close(taylor[place], total / len(loader), rtol=1e-4, atol=1e-7)
        x = entering(model, layer, loader)
        norm = x.square().mean(0).sqrt()
        expected = (layer.weight.abs().sum(0) * norm).detach()
        torch.testing.assert_close(wanda[place], expected, rtol=1e-4, atol=1e-7)
        key = next(n for n, m in model.named_modules() if m is layer) + ".weight"
        torch.testing.assert_close(single.second[key][0], norm, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_single_weights_are_those_of_the_librarys_own_loss(name):
    model, loader, _ = case(name)
    layer = last_layers(model)[0]
    key = next(n for n, m in model.named_modules() if m is layer) + ".weight"
    total = sum(torch.autograd.grad(model(**b).loss, layer.weight)[0] for b in loader)
    found = natsel.weights(model, scorer="taylor", data=loader, include=key).second[key]
    torch.testing.assert_close(found, total / len(loader), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in CASES if name != "vit"])
def test_what_is_padded_changes_nothing(name):
    """Tokens where nothing is may be any: no score and no small model moves."""
    model, loader, communities = case(name)
    other = []
    for batch in loader:
        there = batch["attention_mask"].bool()
        batch = dict(batch)
        batch["input_ids"] = torch.where(there, batch["input_ids"], 7)
        other.append(batch)
    survivors = natsel.select(natsel.score(communities, "magnitude"), natsel.Sparsity(0.5))
    for scorer in ("wanda", "variance", "joint"):
        one, two = (natsel.score(communities, scorer, data=d) for d in (loader, other))
        for place in communities:
            torch.testing.assert_close(one[place], two[place], rtol=1e-3, atol=1e-6)
    small = [natsel.extract(model, survivors, data=d) for d in (loader, other)]
    rows = natsel.compensation_of(small[0]).consumers[0].rows
    assert rows == sum(int(b["attention_mask"].sum()) for b in loader)
    for one, two in zip(*(m.parameters() for m in small), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_decoder_reads_what_the_labels_say(kind):
    torch.manual_seed(0)
    if kind == "t5":
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                d_model=16,
                d_ff=12,
                num_layers=1,
                num_heads=2,
                d_kv=8,
                vocab_size=TOKENS,
                decoder_start_token_id=0,
            )
        )
        name = "decoder.block.0.layer.2.DenseReluDense.wo"
    else:
        model = transformers.BartForConditionalGeneration(
            transformers.BartConfig(
                d_model=16,
                encoder_ffn_dim=12,
                decoder_ffn_dim=12,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                vocab_size=TOKENS,
                max_position_embeddings=16,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=2,
            )
        )
        name = "model.decoder.layers.0.fc2"
    model.eval()
    rows = rows_of_text("tokens")
    for i, row in enumerate(rows):  # as long as the inputs, and padded elsewhere
        row["labels"] = torch.where(torch.arange(LENGTH) < 4 + i % 3, row["labels"].abs() + 1, -100)
        row["labels"][row["labels"] >= TOKENS] = 3
    loader = DataLoader(rows, batch_size=2)
    first = next(iter(loader))
    ids = model.prepare_decoder_input_ids_from_labels(labels=first["labels"])
    example = {"input_ids": first["input_ids"], "decoder_input_ids": ids}
    communities = natsel.discover(model, example).only("neuron")
    layer = model.get_submodule(name)
    place = next(c for c in communities if "decoder" in c and communities[c].size == 12)
    total, seen, kept = torch.zeros(12), [], []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    for batch in loader:
        loss = model(**batch).loss
        total += (layer.weight * torch.autograd.grad(loss, layer.weight)[0]).sum(0).abs().detach()
        kept.append(seen.pop()[batch["labels"] != -100])
    handle.remove()
    found = natsel.score(communities, "taylor", data=loader)[place]
    torch.testing.assert_close(found, total / len(loader), rtol=1e-4, atol=1e-7)
    norm = torch.cat(kept).square().mean(0).sqrt()
    found = natsel.weights(model, scorer="wanda", data=loader).second[f"{name}.weight"][0]
    torch.testing.assert_close(found, norm, rtol=1e-4, atol=1e-7)
    pruned = natsel.prune(model, example, natsel.Sparsity(0.3), scorer="taylor", data=loader)
    assert pruned.compensation.num_compensated > 0


def plain():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return model, torch.randn(40, 4), torch.randint(3, (40,))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, _, _ = plain()

    def forward(self, x):
        return self.net(x)


def test_tuples_lists_and_mappings_give_one_result_everywhere():
    model, (_, x, y) = Named(), plain()
    communities = natsel.discover(model, {"x": x[:2]})
    parts = list(zip(x.split(10), y.split(10), strict=True))
    forms = {
        "tuples": parts,
        "lists": [list(p) for p in parts],
        "named": [{"x": a, "labels": b} for a, b in parts],
        "named and labels": [({"x": a}, b) for a, b in parts],
        "once": iter(parts),
        "loader": DataLoader([{"x": a, "label": b} for a, b in zip(x, y, strict=True)], 10),
    }

    def everything(data):
        data = list(data)
        scores = natsel.score(communities, "taylor", data=iter(data))
        survivors = natsel.select(scores, natsel.Sparsity(0.5))
        small = natsel.extract(model, survivors, data=iter(data))
        audited = natsel.audit(communities, ["taylor", "wanda"], [0.5], data=iter(data))
        adapted = natsel.adapt(
            communities,
            natsel.Sparsity(0.5),
            data=iter(data),
            generator=torch.Generator().manual_seed(0),
            search=False,
        )
        pruned = natsel.prune(
            model, {"x": x[:2]}, natsel.Sparsity(0.5), scorer="taylor", data=iter(data)
        )
        return [
            scores["net.0"].tolist(),
            [p.tolist() for p in small.parameters()],
            [p.tolist() for p in pruned.small.parameters()],
            audited.overall.spearman,
            {n: m.tolist() for n, m in adapted.survivors.items()},
            natsel.weights(model, scorer="taylor", data=iter(data)).second["net.0.weight"].tolist(),
        ]

    found = {name: everything(data) for name, data in forms.items()}
    for name, result in found.items():
        assert result == found["tuples"], name
    # the old names go on working
    survivors = natsel.select(natsel.score(communities, "taylor", data=parts), natsel.Sparsity(0.5))
    small = natsel.extract(model, survivors, compensate=parts)
    assert [p.tolist() for p in small.parameters()] == found["tuples"][1]
    small = natsel.extract(model, survivors, compensate=True, data=parts)
    assert [p.tolist() for p in small.parameters()] == found["tuples"][1]
    small = natsel.extract(model, survivors, compensate=False, data=parts)
    assert natsel.compensation_of(small) is None
    generator = torch.Generator().manual_seed(0)
    adapted = natsel.adapt(
        communities, natsel.Sparsity(0.5), x, y, generator=generator, search=False
    )
    assert {n: m.tolist() for n, m in adapted.survivors.items()} == found["tuples"][4]


IDS = torch.tensor([[5, 6, 7, 8], [9, 3, 4, 2]])
NEXT = torch.tensor([[6, 7, 8, -100], [3, 4, 2, -100]])


class OwnForCausalLM(nn.Module):
    """A causal language model by its name."""


class Own(nn.Module):
    """A model that says nothing of itself."""


class OwnForTokenClassification(transformers.BertForTokenClassification):
    """Of the library, and no causal language model."""

    def __init__(self):
        nn.Module.__init__(self)


@pytest.mark.parametrize(
    ("model", "batch", "expected", "said"),
    [
        (OwnForCausalLM, {"input_ids": IDS, "labels": IDS}, NEXT, None),
        (OwnForCausalLM, {"input_ids": IDS, "labels": IDS + 9}, moved(IDS + 9), None),
        (OwnForCausalLM, {"inputs_embeds": IDS.float(), "labels": IDS}, NEXT, None),
        (OwnForCausalLM, {"input_ids": IDS, "labels": NEXT}, NEXT, "moved by one place before"),
        (OwnForCausalLM, {"input_ids": IDS, "shift_labels": NEXT, "labels": IDS}, NEXT, None),
        (OwnForCausalLM, {"input_ids": IDS, "labels": IDS[:, 0]}, IDS[:, 0], None),
        (OwnForCausalLM, (IDS, NEXT), NEXT, None),
        (OwnForCausalLM, (IDS, IDS), NEXT, "equal the tokens in their own places"),
        (OwnForCausalLM, ({"input_ids": IDS}, NEXT), NEXT, None),
        (OwnForCausalLM, ({"input_ids": IDS, "labels": IDS},), NEXT, None),
        (OwnForTokenClassification, {"input_ids": IDS, "labels": IDS}, IDS, None),
        (Own, {"input_ids": IDS, "labels": IDS}, NEXT, None),
        (Own, {"input_ids": IDS, "labels": NEXT}, NEXT, None),
        (Own, {"input_ids": IDS, "labels": IDS % 2}, IDS % 2, "cannot be told"),
        (Own, {"x": IDS.float(), "labels": IDS % 2}, IDS % 2, None),
        (Own, (IDS, IDS), IDS, None),
    ],
)
def test_labels_stand_where_they_are_predicted(model, batch, expected, said):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read_batch(batch).targets(model())
    assert found.tolist() == expected.tolist()
    assert [str(w.message) for w in told] == ([] if said is None else [str(told[0].message)])
    assert said is None or said in str(told[0].message)


def test_labels_that_do_not_count_tell_nothing_and_stay_so():
    labels = torch.tensor([[-100, -100, 7, 8]])
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "labels": labels}
    assert read_batch(batch).targets(OwnForCausalLM()).tolist() == [[-100, 7, 8, -100]]
    batch["labels"] = torch.full((1, 4), -100)
    assert read_batch(batch).targets(OwnForCausalLM()).tolist() == [[-100] * 4]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (transformers.GPT2LMHeadModel, True),
        (transformers.LlamaForCausalLM, True),
        (transformers.XLNetLMHeadModel, False),
        (transformers.BertForMaskedLM, False),
        (transformers.ViTForImageClassification, False),
        (transformers.LlavaForConditionalGeneration, True),
        (nn.Linear, None),
    ],
)
def test_which_models_predict_the_next_token(kind, expected):
    model = kind.__new__(kind)
    nn.Module.__init__(model)
    assert is_causal(model) is expected
    assert is_causal(nn.DataParallel(model)) is expected


def test_an_encoder_with_a_decoder_predicts_in_place():
    config = transformers.T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, vocab_size=9)
    assert is_causal(transformers.T5ForConditionalGeneration(config)) is False


MASK = torch.tensor([[1, 1, 0], [0, 1, 1]])


@pytest.mark.parametrize(
    ("shape", "axis", "rows"),
    [
        ((2, 3, 5), -1, [0, 1, 4, 5]),
        ((6, 5), -1, [0, 1, 4, 5]),
        ((2, 5), -1, [0, 1]),
        ((2, 5, 3), -2, [0, 1, 4, 5]),
    ],
)
def test_rows_of_padding_are_left_out(shape, axis, rows):
    x = torch.randn(shape)
    flat = x.movedim(axis, -1).reshape(-1, 5)
    with padded(nn.Identity(), {"attention_mask": MASK}):
        found = without_padding(nn.Identity(), x, axis)
    assert torch.equal(found.movedim(axis, -1).reshape(-1, 5), flat[rows])
    assert without_padding(nn.Identity(), x, axis) is x
    with padded(nn.Identity(), {"attention_mask": torch.ones_like(MASK)}):
        assert without_padding(nn.Identity(), x, axis) is x


def test_what_cannot_be_laid_beside_the_mask_is_said():
    x = torch.randn(4, 5)
    with (
        padded(nn.Identity(), {"attention_mask": MASK}),
        pytest.warns(UserWarning, match=r"\(4, 5\) cannot be laid beside attention_mask \(2, 3\)"),
    ):
        assert without_padding(nn.Identity(), x, -1) is x


def test_batches_are_gathered_into_one():
    x, y = torch.arange(8).view(4, 2), torch.arange(4)
    inputs, labels = gathered(Own(), list(zip(x.split(3), y.split(3), strict=True)))
    assert (inputs[0].tolist(), labels.tolist()) == (x.tolist(), y.tolist())
    inputs, labels = gathered(Own(), [(x,), (x,)])
    assert (inputs[0].shape, labels) == ((8, 2), None)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "^data='empty' is not allowed"),
        (3, "^data=3 is not allowed: expected an iterable of batches"),
        ({"x": torch.zeros(2, 4)}, "is not allowed: expected an iterable of batches"),
        ("abc", "^data='abc' is not allowed"),
        ([{}], "a batch without tensors"),
        ([{"labels": torch.zeros(2)}], "a batch of 'labels' alone"),
        ([{"x": torch.zeros(2, 4)}], "batches without labels"),
        ([(torch.zeros(2, 4),)], "batches without labels"),
        ([{"z": torch.zeros(2, 4), "labels": torch.zeros(2).long()}], "batches with 'z'"),
        ([torch.zeros(2, 4)], "batches of type Tensor"),
    ],
)
def test_wrong_batches_are_refused_in_one_line(data, told):
    communities = natsel.discover(Named(), {"x": torch.zeros(1, 4)})
    with pytest.raises(ValueError, match=told) as raised:
        natsel.score(communities, "taylor", data=data)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([(torch.zeros(30, 4), torch.zeros(30)), (torch.zeros(30, 4),)], "without labels"),
        ([(torch.zeros(30, 4),), (torch.zeros(30, 5),)], "pad to one length"),
        ([(torch.zeros(3, 4),)], "3 samples"),
        (None, "batches of the search split"),
    ],
)
def test_a_search_split_that_does_not_fit_is_refused(data, told):
    communities = natsel.discover(Named(), {"x": torch.zeros(1, 4)})
    with pytest.raises(ValueError, match=told):
        natsel.adapt(communities, natsel.Sparsity(0.5), data=data, generator=torch.Generator())
