import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from heavytail import (
    StableNoise,
    column_norms,
    hidden_weights,
    kept_columns,
    prune,
    relative_error,
    symmetric_stable,
)

ROOT = 0.1**0.5


def net():
    torch.manual_seed(1)
    model = nn.Module()
    model.body = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU())
    model.head = nn.Linear(30, 3)
    with torch.no_grad():  # unequal columns
        model.body[0].weight *= torch.linspace(0.1, 3, 40)[:, None]
        model.body[2].weight *= torch.linspace(0.1, 9, 30)[:, None]
    return model


def visible(layer):
    return layer.weight.detach()


# Norms and errors.


def test_column_norms_are_row_norms_of_the_stored_weight():
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    assert column_norms(weight).tolist() == [5, 0, 1]
    assert column_norms(torch.ones(4, 3, 2, 2)).tolist() == pytest.approx([math.sqrt(12)] * 4)
    assert column_norms(weight.T).tolist() == pytest.approx([math.sqrt(10), 4])  # not contiguous
    assert column_norms(torch.tensor([[math.inf, 1.0], [1.0, 0.0]])).tolist() == [math.inf, 1]
    assert column_norms(torch.ones(2, 0)).tolist() == [0, 0]


def test_squares_beyond_the_floats():
    wide = torch.tensor([[1e200, 1e200], [1e-200, 1e-200], [0, 0]], dtype=torch.float64)
    assert column_norms(wide).tolist() == pytest.approx([2**0.5 * 1e200, 2**0.5 * 1e-200, 0])
    steep = 1e200 * torch.tensor([[1.0], [1e-5], [1e-9]], dtype=torch.float64)
    assert relative_error(steep, torch.tensor([0])) == pytest.approx(1e-5)


def test_relative_error_is_its_definition(generator):
    weight = symmetric_stable(1.5, (200, 3), generator=generator, dtype=torch.float64)
    kept = torch.arange(200) % 3 == 0
    dropped = torch.where(kept[:, None], 0, weight)
    exact = float(dropped.norm() / weight.norm())
    assert relative_error(weight, kept) == pytest.approx(exact, rel=1e-12)
    assert relative_error(weight, kept.nonzero().flatten()) == relative_error(weight, kept)
    assert exact**2 + relative_error(weight, ~kept) ** 2 == pytest.approx(1)
    assert relative_error(weight, torch.ones(200, dtype=torch.bool)) == 0
    assert relative_error(weight, torch.tensor([], dtype=torch.int64)) == 1
    assert relative_error(torch.zeros(3, 2), torch.tensor([0])) == 0
    weight[7] = 0
    assert relative_error(weight, torch.tensor([7])) <= 1  # nothing is kept, in rounded sums


# The criterion.


@pytest.mark.parametrize("n", [1, 2, 6])
def test_no_other_choice_is_better(n, generator):
    """Brute force over all sets of columns."""
    for _ in range(20):
        weight = symmetric_stable(1.2, (n, 2), generator=generator, dtype=torch.float64)
        subsets = [torch.tensor(s) for s in itertools.product([False, True], repeat=n)]
        errors = [relative_error(weight, subset) for subset in subsets]
        for k in range(n + 1):
            found = relative_error(weight, kept_columns(weight, keep=k / n))
            best = min(e for e, s in zip(errors, subsets, strict=True) if int(s.sum()) == k)
            assert found == pytest.approx(best, rel=1e-12)
        for error in (0.05, 0.1, ROOT, 0.9):
            kept = kept_columns(weight, error=error)
            assert relative_error(weight, kept) <= error
            fewest = min(int(s.sum()) for e, s in zip(errors, subsets, strict=True) if e <= error)
            assert int(kept.sum()) == fewest


@pytest.mark.parametrize("alpha", [0.5, 1.5, 2.0])
def test_the_error_of_a_choice_gives_it_back(alpha, generator):
    """The sums of squares are rounded differently, in another order."""
    for _ in range(5):
        weight = symmetric_stable(alpha, (101, 3), generator=generator)
        for k in range(102):
            kept = kept_columns(weight, keep=k / 101)
            assert int(kept.sum()) == k
            assert torch.equal(kept_columns(weight, error=relative_error(weight, kept)), kept), k


@pytest.mark.parametrize(
    ("norms", "criterion", "kept"),
    [
        ([3, 1], {"error": ROOT * (1 - 1e-13)}, [1, 0]),  # up to rounding
        ([3, 1], {"error": ROOT * (1 - 1e-11)}, [1, 1]),
        ([3, 1], {"error": 0.1}, [1, 1]),  # the squared error would be 0.1
        ([1, 1, 1, 1], {"keep": 0.5}, [0, 0, 1, 1]),  # of equal ones the earlier goes
        ([1, 1, 1, 1], {"error": 0.75}, [0, 0, 1, 1]),
        ([1, 3, 2], {"keep": 1.0}, [1, 1, 1]),
        ([1, 3, 2], {"error": 0.0}, [1, 1, 1]),
        ([1, 3, 2], {"error": 1.0}, [0, 0, 0]),
        ([0, 3, 2], {"error": 0.0}, [0, 1, 1]),
        ([0, 0, 0], {"error": 0.0}, [0, 0, 0]),  # nothing is lost
        ([1, 3, 2], {"keep": 0.49}, [0, 1, 0]),  # rounds 1.47
        ([1, 3, 2], {"keep": 0.51}, [0, 1, 1]),  # rounds 1.53
        ([1, 3, 2], {"keep": 0.01}, [0, 1, 0]),  # one stays
        ([1, 3, 2], {"keep": 0.0}, [0, 0, 0]),
    ],
)
def test_the_criteria(norms, criterion, kept):
    weight = torch.tensor(norms, dtype=torch.float64)[:, None]
    assert kept_columns(weight, **criterion).int().tolist() == kept
    assert kept_columns(1e-300 * weight, **criterion).int().tolist() == kept
    layer = nn.Linear(1, len(norms)).double()
    layer.weight.data = weight
    prune(layer, layers=layer, **criterion)
    assert torch.equal(visible(layer), weight * torch.tensor(kept)[:, None])


def test_bad_criteria():
    for criterion, message in (
        ({}, "give one of keep and error"),
        ({"keep": 0.5, "error": 0.5}, "give one of keep and error"),
        ({"keep": 1.5}, r"keep must be in \[0, 1\], got 1\.5"),
        ({"error": math.nan}, r"error must be in \[0, 1\], got nan"),
    ):
        for call, of in ((kept_columns, torch.ones(3, 2)), (prune, net())):
            with pytest.raises(ValueError, match=message):
                call(of, **criterion)


@pytest.mark.parametrize(
    ("weight", "kept", "message"),
    [
        (torch.ones(3), torch.tensor([0]), r"shape \(n, ...\)"),
        (torch.ones(3, 2) / 0, torch.tensor([0]), "must be finite"),
        (torch.ones(3, 2), torch.ones(2).bool(), r"must have shape \(3,\), got \(2,\)"),
        (torch.ones(3, 2), torch.tensor([3]), r"must be in \[0, 3\)"),
        (torch.ones(3, 2), torch.tensor([-1]), r"must be in \[0, 3\)"),
        (torch.ones(3, 2), torch.ones(3).byte(), "boolean mask or integer indices"),
        (torch.ones(3, 2), [0, 1], "boolean mask or integer indices"),
    ],
)
def test_bad_weights_and_masks(weight, kept, message):
    with pytest.raises((TypeError, ValueError), match=message):
        relative_error(weight, kept)


# The action and its report.


def test_prune_sets_the_smallest_columns_to_zero_and_reports_them():
    model, original = net(), net()
    report = prune(model, error=ROOT)
    for layer_report, layer in zip(report.layers, (0, 2), strict=True):
        before, after = visible(original.body[layer]), visible(model.body[layer])
        kept = kept_columns(before, error=ROOT)
        assert torch.equal(after, before * kept[:, None])
        assert layer_report.name == f"body.{layer}"
        assert (layer_report.units, layer_report.kept) == (len(kept), int(kept.sum()))
        assert layer_report.kept_parameters == int(kept.sum()) * before.shape[1]
        assert layer_report.error == relative_error(before, kept)
        assert layer_report.ratio == 1 - layer_report.kept / len(kept)
    assert (report.units, report.parameters) == (70, 40 * 5 + 30 * 40)
    assert report.kept_parameters == sum(layer.kept_parameters for layer in report.layers)
    assert report.kept == sum(layer.kept for layer in report.layers)
    assert report.ratio == 1 - report.kept / 70
    assert report.error <= ROOT
    assert torch.equal(visible(model.head), visible(original.head))
    assert "weight_mask" in dict(model.body[0].named_buffers())  # torch's own
    masked = visible(model.body[0]).clone()
    torch_prune.remove(model.body[0], "weight")
    assert torch.equal(visible(model.body[0]), masked)


def test_the_report_prints_as_a_table():
    report = prune(net(), keep=0.5)
    *lines, last = str(report).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "body.0", "body.2", "total"]
    assert "20 of 40" in lines[1]
    assert "35 of 70" in lines[3]
    assert "700 of 1,400" in lines[3]
    assert lines[3].endswith(f"{report.error:.3f}")
    assert len({len(line) for line in lines}) == 1
    assert last == "protected: head"


@pytest.mark.parametrize(
    ("layer", "unit", "leading"),
    [
        (nn.Conv2d(5, 6, 3), "column", 1),
        (nn.Conv2d(5, 6, 3), "kernel", 2),
        (nn.Conv2d(5, 6, 3), "weight", 4),
        (nn.Conv1d(5, 6, 3), "kernel", 2),
        (nn.Linear(5, 6), "kernel", 1),
        (nn.Linear(5, 6), "weight", 2),
    ],
)
def test_units(layer, unit, leading):
    """The largest half of the units, found by plain sorting, is left as it was."""
    before = visible(layer).clone()
    report = prune(layer, keep=0.5, layers=layer, unit=unit)
    units = before.flatten(0, leading - 1).view(math.prod(before.shape[:leading]), -1)
    bar = units.norm(dim=1).median()
    expected = units * (units.norm(dim=1) > bar)[:, None]
    assert torch.equal(visible(layer), expected.view_as(before))
    assert (report.units, report.kept) == (len(units), len(units) // 2)
    assert report.kept_parameters == report.kept * units.shape[1]
    exact = (before - visible(layer)).norm() / before.norm()
    assert report.error == pytest.approx(float(exact), rel=1e-5)  # a float32 sum


def test_global_scope_compares_columns_of_all_layers():
    model, original = net(), net()
    report = prune(model, keep=0.5, scope="global")
    norms = torch.cat([column_norms(visible(original.body[i])) for i in (0, 2)])
    after = torch.cat([column_norms(visible(model.body[i])) for i in (0, 2)])
    assert report.kept == 35
    assert report.layers[0].kept != 20
    assert norms[after > 0].min() >= norms[after == 0].max()
    report = prune(net(), error=ROOT, scope="global")
    assert report.error <= ROOT < max(layer.error for layer in report.layers)


def test_pruning_again_prunes_further():
    model = net()
    first = prune(model, keep=0.5)
    again = prune(model, keep=0.5)  # nothing more to do, so nothing more is lost
    assert (again.kept, again.kept_parameters) == (first.kept, first.kept_parameters)
    assert again.error == 0 < first.error
    assert prune(model, keep=0.25).layers[0].kept == 10
    assert int((column_norms(visible(model.body[0])) > 0).sum()) == 10
    assert prune(model, keep=0.5).layers[0].kept == 10  # what is gone stays gone


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_error_is_of_the_weights_that_earlier_masks_left(scope):
    model = net()
    for criterion in ({"error": 0.3, "unit": "weight"}, {"error": 0.5}, {"keep": 0.3}):
        before = [visible(model.body[i]).clone() for i in (0, 2)]
        report = prune(model, **criterion, scope=scope)
        after = [visible(model.body[i]) for i in (0, 2)]
        lost = [float((W - V).norm()) for W, V in zip(before, after, strict=True)]
        total = [float(W.norm()) for W in before]
        for layer, a, b in zip(report.layers, lost, total, strict=True):
            assert layer.error == pytest.approx(a / b if b else 0)
        assert report.error == pytest.approx(math.hypot(*lost) / math.hypot(*total))
        assert report.error <= criterion.get("error", 1)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_layers_that_share_a_weight_are_pruned_as_one(scope):
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[1].weight = model[0].weight
    report = prune(model, keep=0.5, layers=["0", "1"], scope=scope)
    assert [(layer.name, layer.units, layer.kept) for layer in report.layers] == [("0", 6, 3)]
    assert (report.parameters, report.kept_parameters) == (36, 18)
    assert torch.equal(visible(model[0]), visible(model[1]))
    assert (column_norms(visible(model[0])) > 0).sum() == 3
    assert report.protected == ("2",)


def test_pruning_sees_the_weights_as_they_are_now():
    """torch renews a masked weight at the next forward pass only."""
    model = net()
    prune(model, keep=0.5)
    layer = model.body[0]
    with torch.no_grad():
        first = int(layer.weight_mask[:, 0].nonzero()[0])
        layer.weight_orig[first] = 100.0
    prune(model, keep=1 / 40, layers=layer)
    assert column_norms(visible(layer)).nonzero().flatten().tolist() == [first]


# Which layers are meant.


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Sub(nn.Linear):
    pass


class OfNoKnownKind(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))


def of_many_kinds():
    model = nn.Module()
    model.position = OfNoKnownKind()
    model.embed = nn.Embedding(7, 8)
    model.attention = nn.MultiheadAttention(8, 2)
    model.convs = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ConvTranspose1d(4, 8, 3), nn.Conv3d(2, 2, 1))
    model.body = Sub(8, 8)
    model.pairs = nn.Bilinear(2, 3, 4)
    model.doubled = nn.Sequential(nn.Linear(3, 4))
    model.head = nn.Linear(8, 2)
    return model


def test_layers_with_columns_are_taken_and_embeddings_if_they_are_named():
    report = prune(of_many_kinds(), keep=0.5)
    units = {layer.name: layer.units for layer in report.layers}
    convs = {"convs.0": 4, "convs.1": 8, "convs.2": 2}
    assert units == {**convs, "body": 8, "pairs": 4, "doubled.0": 4}
    left = ("position", "embed", "attention", "attention.out_proj", "head")
    assert report.protected == left
    model = of_many_kinds()
    inside = prune(model, keep=0.5, layers=["head", "convs"])  # in the model's order
    assert [layer.name for layer in inside.layers] == [*convs, "head"]
    named = prune(model, keep=0.5, layers=["embed", model.pairs])
    assert [(layer.name, layer.units) for layer in named.layers] == [("embed", 7), ("pairs", 4)]


@pytest.mark.parametrize("unit", ["column", "kernel", "weight"])
def test_a_transposed_convolution_is_cut_by_output_channel(unit):
    """Like the convolution whose filters are its own."""
    layer = nn.ConvTranspose1d(4, 6, 3, groups=2)  # (inputs, outputs of a group, taps)
    plain = nn.Conv1d(4, 6, 3, groups=2)
    outputs_first = layer.weight.detach().view(2, 2, 3, 3).transpose(1, 2).reshape(6, 2, 3)
    plain.weight.data = outputs_first.clone()
    reports = [prune(each, keep=0.5, layers=each, unit=unit) for each in (layer, plain)]
    assert reports[0] == replace(reports[1], layers=reports[0].layers)
    cut = visible(layer).view(2, 2, 3, 3).transpose(1, 2).reshape(6, 2, 3)
    assert torch.equal(cut, visible(plain))


def test_pruning_while_noise_goes_on():
    """What a mask hides gets no noise, and a second pruning is of what is left."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    weights = hidden_weights(model)
    StableNoise(optimizer, weights, alpha=1.5, scale=0.01, kind="isotropic", seed=0)
    first, before = prune(model, error=0.2), [weight.detach().clone() for weight in weights]
    for _ in range(200):
        optimizer.step()
    for weight, old, layer in zip(weights, before, (model.body[0], model.body[2]), strict=True):
        masked = layer.weight_mask == 0
        assert torch.equal(weight[masked], old[masked])
        assert not (weight == old)[~masked].any()
        layer(torch.ones(1, layer.in_features))  # torch masks anew
    again = prune(model, error=0.2)
    assert again.error <= 0.2
    assert 0 < again.kept <= first.kept


def with_inf(model):
    nn.init.constant_(model.body.weight, math.inf)


def without_parameter(model):
    plain = model.body.weight.detach() * 1
    del model.body.weight
    model.body.weight, model.body.other = plain, nn.Parameter(plain)


def parametrized(model):
    nn.utils.parametrize.register_parametrization(model.doubled[0], "weight", Doubled())


def without_head(model):
    del model.head


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, {"layers": "nothing"}, "layers must be of the model, got 'nothing'"),
        (None, {"layers": []}, "at least one layer"),
        (None, {"layers": nn.Linear(2, 2)}, r"layers must be of the model, got Linear\("),
        (None, {"unit": "row"}, "unit must be one of"),
        (None, {"scope": "all"}, "scope must be one of"),
        (None, {"layers": ["body", "position"]}, r"position \(OfNoKnownKind\) .* are not known"),
        (None, {"layers": ["body", "attention"]}, r"attention .* has no parameter 'weight'"),
        (None, {"layers": ["attention.out_proj"]}, "is never called: its nn.MultiheadAttention"),
        (with_inf, {}, "must be finite"),
        (without_parameter, {}, r"body \(Sub\) has no parameter 'weight'"),
        (parametrized, {}, r"doubled\.0 \(ParametrizedLinear\).*remove_parametrizations"),
        (parametrized, {"layers": "doubled"}, r"doubled\.0 \(ParametrizedLinear\).*remove_param"),
        (without_head, {}, r"named 'head'.*or layers=.*body \(Sub\)"),
    ],
)
def test_what_is_refused_leaves_the_model_alone(change, arguments, message):
    model = of_many_kinds()
    if change:
        change(model)
    with pytest.raises(ValueError, match=message):
        prune(model, keep=0.5, **arguments)
    assert not torch_prune.is_pruned(model)


def test_path_norms_do_not_see_a_rescaling_and_norms_do():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 8))
    net = nn.Sequential(*net, nn.ReLU(), nn.Linear(8, 3)).double()
    twin, c = copy.deepcopy(net), torch.tensor([1e3, 1, 1e-3, 1, 1, 7]).double()
    with torch.no_grad():
        twin[0].weight *= c[:, None, None, None]
        twin[0].bias *= c
        twin[3].weight /= c.repeat_interleave(4)
    x = torch.randn(5, 2, 4, 4).double()
    torch.testing.assert_close(net(x), twin(x))
    for score, same in (("path", True), ("norm", False)):
        pruned = [copy.deepcopy(some) for some in (net, twin)]
        for some in pruned:
            prune(some, keep=0.5, layers=["0", "3"], score=score)
        masks = [some[0].weight_mask[:, 0, 0, 0] for some in pruned]
        assert torch.equal(*masks) == same
    A = net[3].weight.view(8, 6, 4).square().sum((0, 2)).sqrt()
    p = net[0].weight.flatten(1).norm(dim=1) * A
    kept = prune(net, keep=0.5, layers="0", score="path") and net[0].weight_mask[:, 0, 0, 0].bool()
    assert set(p.topk(3).indices.tolist()) == set(kept.nonzero().flatten().tolist())


def test_scores_of_a_function_decide_and_the_error_is_of_the_matrix():
    net = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 1)).double()
    whole = net[0].weight.detach().clone()
    report = prune(net, keep=0.4, layers="0", score=lambda layer: torch.tensor([5.0, 1, 4, 2, 3]))
    kept = torch.tensor([True, False, True, False, False])
    assert torch.equal(net[0].weight_mask[:, 0].bool(), kept)
    assert report.error == pytest.approx(relative_error(whole, kept))
    again = prune(net, keep=0.2, layers="0", score=lambda layer: torch.arange(5.0))
    assert torch.equal(net[0].weight_mask[:, 0].bool(), torch.arange(5) == 2)  # of those left
    assert again.kept == 1
    before = copy.deepcopy(net.state_dict())
    for score, unit, message in (
        ("size", "column", "score must be one of"),
        ("path", "weight", "score must be 'norm' where unit is 'weight'"),
        (lambda layer: torch.ones(4), "column", r"must have shape \(5,\), got \(4,\)"),
        (lambda layer: torch.full((5,), math.nan), "column", "the scores of 0 must be in"),
        (lambda layer: 1.0, "column", "what score returns must be a floating-point tensor"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            prune(net, keep=0.2, layers="0", unit=unit, score=score)
    with pytest.raises(ValueError, match="no weights that read 2 were found"):
        prune(net, keep=0.5, layers="2", score="path")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
