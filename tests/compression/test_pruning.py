import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from heavytail import column_norms, kept_columns, prune, relative_error, symmetric_stable
from heavytail.compression.pruning import LayerReport, PruneReport

ROOT = 0.1**0.5


@pytest.fixture
def weight(generator):
    """A heavy-tailed weight of 200 columns in R^3."""
    return symmetric_stable(1.5, (200, 3), generator=generator, dtype=torch.float64)


def net(generator=None):
    torch.manual_seed(1)
    model = nn.Module()
    model.body = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU())
    model.head = nn.Linear(30, 3)
    with torch.no_grad():  # unequal columns
        model.body[0].weight *= torch.linspace(0.1, 3, 40)[:, None]
        model.body[2].weight *= torch.linspace(0.1, 9, 30)[:, None]
    return model


def masked(layer):
    return layer.weight.detach()


# Norms and errors.


def test_column_norms_are_row_norms_of_the_stored_weight():
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    assert column_norms(weight).tolist() == [5, 0, 1]
    filters = torch.ones(4, 3, 2, 2)
    assert column_norms(filters).tolist() == pytest.approx([math.sqrt(12)] * 4)
    assert column_norms(weight.T).tolist() == pytest.approx([math.sqrt(10), 4])  # not contiguous


def test_squares_beyond_the_floats():
    weight = torch.tensor([[1e30, 0.0], [1e25, 0.0], [1e-30, 0.0]])
    assert column_norms(weight).tolist() == pytest.approx([1e30, 1e25, 1e-30])
    huge = torch.tensor([[1e200], [1e195], [1.0]], dtype=torch.float64)
    assert relative_error(huge, torch.tensor([0])) == pytest.approx(1e-5)
    assert kept_columns(huge, error=0.1).tolist() == [True, False, False]
    wide = torch.tensor([[1e200, 1e200], [1e-200, 1e-200], [0, 0]], dtype=torch.float64)
    assert column_norms(wide).tolist() == pytest.approx([2**0.5 * 1e200, 2**0.5 * 1e-200, 0])


def test_relative_error_is_its_definition(weight):
    kept = torch.arange(200) % 3 == 0
    dropped = weight.clone()
    dropped[kept] = 0
    exact = float(dropped.norm() / weight.norm())
    assert relative_error(weight, kept) == pytest.approx(exact, rel=1e-12)
    indices = kept.nonzero().flatten()
    assert relative_error(weight, indices) == relative_error(weight, kept)
    assert relative_error(weight, torch.ones(200, dtype=torch.bool)) == 0
    assert relative_error(weight, torch.tensor([], dtype=torch.int64)) == 1
    assert relative_error(torch.zeros(3, 2), torch.tensor([0])) == 0


def test_errors_add_like_pythagoras(weight):
    kept = torch.arange(200) < 80
    squares = relative_error(weight, kept) ** 2 + relative_error(weight, ~kept) ** 2
    assert squares == pytest.approx(1)


# The criterion.


@pytest.mark.parametrize("error", [0.05, 0.1, ROOT, 0.9])
def test_no_column_more_could_go(weight, error):
    kept = kept_columns(weight, error=error)
    assert relative_error(weight, kept) <= error
    smallest_kept = column_norms(weight).masked_fill(~kept, math.inf).argmin()
    kept[smallest_kept] = False
    assert relative_error(weight, kept) > error


def test_the_kept_columns_are_the_largest(weight):
    norms = column_norms(weight)
    for criterion in ({"keep": 0.3}, {"error": 0.2}):
        kept = kept_columns(weight, **criterion)
        assert norms[kept].min() >= norms[~kept].max()
    assert int(kept_columns(weight, keep=0.3).sum()) == 60


def test_the_error_is_not_squared():
    """Squared norms 0.9 and 0.1: the small one goes at squared error 0.1, not at error 0.1."""
    weight = torch.tensor([[3.0], [1.0]], dtype=torch.float64)
    assert kept_columns(weight, error=0.317).tolist() == [True, False]
    assert kept_columns(weight, error=0.1).tolist() == [True, True]


def test_ends_of_the_criteria(weight):
    assert kept_columns(weight, keep=1.0).all()
    assert not kept_columns(weight, keep=0.0).any()
    assert not kept_columns(weight, error=1.0).any()
    assert kept_columns(weight, error=0.0).all()
    weight[:10] = 0
    assert int(kept_columns(weight, error=0.0).sum()) == 190
    assert not kept_columns(torch.zeros(4, 2), error=0.1).any()  # nothing is lost


def test_the_count_is_rounded():
    weight = torch.arange(1.0, 8)[:, None]
    assert int(kept_columns(weight, keep=0.3).sum()) == 2  # of 2.1
    assert int(kept_columns(weight, keep=0.4).sum()) == 3  # of 2.8


@pytest.mark.parametrize("alpha", [0.5, 1.5, 2.0])
def test_the_error_of_a_choice_gives_it_back(alpha, generator):
    """The sums of squares are rounded differently, in another order."""
    for _ in range(5):
        weight = symmetric_stable(alpha, (101, 3), generator=generator)
        for k in range(102):
            kept = kept_columns(weight, keep=k / 101)
            error = relative_error(weight, kept)
            assert error <= 1
            assert torch.equal(kept_columns(weight, error=error), kept), k


def test_no_error_is_above_one(generator):
    """Nothing but a zero column is kept; the sum without it may be rounded to more."""
    for n in range(2, 400):
        weight = symmetric_stable(1.5, (n, 1), generator=generator, dtype=torch.float64)
        weight[n // 3] = 0
        assert relative_error(weight, torch.tensor([n // 3])) <= 1


def test_the_slack_is_for_rounding_only():
    weight = torch.tensor([[3.0], [4.0]], dtype=torch.float64)
    assert kept_columns(weight, error=0.6 * (1 - 1e-13)).tolist() == [False, True]
    assert kept_columns(weight, error=0.6 * (1 - 1e-11)).all()


def test_ties_are_broken_by_position():
    weight = torch.ones(4, 2)
    assert kept_columns(weight, keep=0.5).tolist() == [False, False, True, True]
    assert kept_columns(weight, error=0.75).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("criterion", "error", "message"),
    [
        ({}, ValueError, "give one of keep and error"),
        ({"keep": 0.5, "error": 0.5}, ValueError, "give one of keep and error"),
        ({"keep": 1.5}, ValueError, r"keep must be in \[0, 1\], got 1\.5"),
        ({"error": -0.1}, ValueError, r"error must be in \[0, 1\], got -0\.1"),
        ({"error": math.nan}, ValueError, "error must be finite, got nan"),
        ({"keep": "half"}, TypeError, "keep must be a real number, got 'half'"),
    ],
)
def test_bad_criteria(criterion, error, message, weight):
    with pytest.raises(error, match=message):
        kept_columns(weight, **criterion)
    with pytest.raises(error, match=message):
        prune(net(), **criterion)


def test_bad_weights(weight):
    with pytest.raises(ValueError, match=r"shape \(n, ...\)"):
        column_norms(torch.ones(3))
    with pytest.raises(TypeError, match="floating-point tensor, got shape"):
        column_norms(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="floating-point tensor, got 'w'"):
        column_norms("w")
    weight[3, 1] = math.nan
    with pytest.raises(ValueError, match="must be finite"):
        kept_columns(weight, keep=0.5)
    with pytest.raises(ValueError, match="must be finite"):
        relative_error(weight, torch.arange(200) < 5)


@pytest.mark.parametrize(
    ("kept", "error", "message"),
    [
        (torch.ones(3, dtype=torch.bool), ValueError, r"must have shape \(200,\), got \(3,\)"),
        (torch.tensor([200]), ValueError, r"must be in \[0, 200\)"),
        (torch.tensor([-1]), ValueError, r"must be in \[0, 200\)"),
        (torch.ones(200), TypeError, "boolean mask or integer indices"),
        ([0, 1], TypeError, "boolean mask or integer indices"),
        (torch.ones(200, dtype=torch.uint8), TypeError, "boolean mask or integer indices"),
    ],
)
def test_bad_masks(kept, error, message, weight):
    with pytest.raises(error, match=message):
        relative_error(weight, kept)


# The action and its report.


def test_prune_sets_the_smallest_columns_to_zero_and_reports_them():
    model, original = net(), net()
    report = prune(model, error=ROOT)
    for layer_report, layer in zip(report.layers, (0, 2), strict=True):
        before, after = masked(original.body[layer]), masked(model.body[layer])
        kept = kept_columns(before, error=ROOT)
        assert torch.equal(after, before * kept[:, None])
        assert layer_report.name == f"body.{layer}"
        assert (layer_report.units, layer_report.kept) == (len(kept), int(kept.sum()))
        assert layer_report.kept_parameters == int(kept.sum()) * before.shape[1]
        assert layer_report.error == pytest.approx(relative_error(before, kept))
        assert layer_report.ratio == pytest.approx(1 - layer_report.kept / len(kept))
    assert report.units == 70
    assert report.ratio == pytest.approx(1 - report.kept / 70)
    assert report.error <= ROOT
    assert report.parameters == 40 * 5 + 30 * 40
    assert torch.equal(masked(model.head), masked(original.head))


def test_the_report_prints_as_a_table():
    report = prune(net(), keep=0.5)
    *lines, last = str(report).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "body.0", "body.2", "total"]
    assert "20 of 40" in lines[1]
    assert "35 of 70" in lines[3]
    assert f"{report.error:.3f}" in lines[3]
    assert len({len(line) for line in lines}) == 1
    assert last == "protected: head"


def test_bytes_and_operations():
    report = prune(net().double(), keep=0.5)
    assert (report.bytes, report.kept_bytes) == (8 * 1400, 8 * 700)
    assert (report.flops, report.kept_flops) == (2 * 1400, 2 * 700)  # linear: once an example
    sequence = prune(net().body, keep=0.5, layers=["0", "2"], example=torch.ones(2, 7, 5))
    assert sequence.flops == 7 * report.flops


@pytest.mark.parametrize(
    ("positions", "short"),
    [
        (0, "0"), (0.5, "0.5"), (99, "99"), (123.44, "123.4"), (999.6, "999.6"),
        (999.97, "1k"), (1000, "1k"), (12_345, "12.3k"),
        (999_499, "999k"), (999_999, "1M"), (1.5e9, "1.5G"), (2.25e12, "2.25T"), (1e15, "1P"),
        (math.nan, "unknown"),
    ],
)  # fmt: skip
def test_numbers_in_the_table(positions, short):
    layer = LayerReport("a", 2, 1, 2, 1, 0.1, positions=positions / 2)
    assert str(PruneReport((layer,), "column", 0.1)).splitlines()[1].split()[-2] == short


def test_operations_of_convolutions_need_an_example():
    def conv_net():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 4, 3, stride=2),
            nn.Flatten(),
            nn.Linear(4 * 49, 2),
        )

    unknown = prune(conv_net(), keep=0.5, layers=["0", "2"])
    assert math.isnan(unknown.flops)
    assert "unknown" in str(unknown)
    model = conv_net().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    report = prune(model, keep=0.5, layers=["0", "2"], example=torch.ones(5, 3, 16, 16))
    assert [layer.positions for layer in report.layers] == [256, 49]
    assert report.flops == 2 * (27 * 8 * 256 + 72 * 4 * 49)
    assert report.protected == ("4",)
    assert model.training
    assert model[1].training
    assert all(torch.equal(value, model.get_buffer(name)) for name, value in before.items())


def test_kernels_of_convolutions():
    torch.manual_seed(1)
    conv = nn.Conv2d(5, 6, 3)
    weight = conv.weight.detach().clone()
    report = prune(nn.Sequential(conv), keep=0.4, layers="0", unit="kernel")
    sizes = weight.flatten(2).norm(dim=2)
    kept = sizes >= sizes.flatten().sort(descending=True).values[11]
    assert torch.equal(masked(conv), weight * kept[..., None, None])
    assert (report.units, report.kept, report.kept_parameters) == (30, 12, 108)
    linear = nn.Linear(5, 6)
    by_kernel = prune(nn.Sequential(linear), keep=0.5, layers="0", unit="kernel")
    assert (by_kernel.units, by_kernel.kept) == (6, 3)  # a linear layer's are its columns


def test_masks_are_torchs_own():
    model = net()
    prune(model, keep=0.5)
    layer = model.body[0]
    assert torch_prune.is_pruned(model)
    assert "weight_mask" in dict(layer.named_buffers())
    kept = masked(layer).clone()
    torch_prune.remove(layer, "weight")
    assert torch.equal(layer.weight, kept)
    assert isinstance(layer.weight, nn.Parameter)


def test_pruning_again_prunes_further():
    model = net()
    prune(model, keep=0.5)
    again = prune(model, keep=0.25)
    assert again.layers[0].kept == 10
    assert int((column_norms(masked(model.body[0])) > 0).sum()) == 10
    milder = prune(model, keep=0.5)  # what is gone stays gone, and is counted as gone
    assert (milder.layers[0].kept, milder.layers[0].kept_parameters) == (10, 50)
    assert milder.error == pytest.approx(again.error)  # of the whole weight, not of what is left


def test_the_error_counts_what_earlier_masks_hide():
    model, original = net(), net()
    assert prune(model, error=0.3, unit="weight").error <= 0.3
    for criterion in ({"error": 0.5}, {"keep": 0.3, "scope": "global"}, {"keep": 0.5}):
        report = prune(model, **criterion)
        lost, total = [], []
        for layer, i in zip(report.layers, (0, 2), strict=True):
            W = masked(original.body[i])
            lost.append(float((W - masked(model.body[i])).norm()))
            total.append(float(W.norm()))
            assert layer.error == pytest.approx(lost[-1] / total[-1])
        assert report.error == pytest.approx(math.hypot(*lost) / math.hypot(*total))
        if "error" in criterion:
            assert report.error <= 0.5
    for scope in ("layer", "global"):  # more is lost than this: nothing else goes
        less = prune(model, error=0.4, scope=scope)
        assert (less.kept_parameters, less.error) == (report.kept_parameters, report.error)


def test_an_error_reached_in_steps_is_reached_at_once():
    model, once = net(), net()
    for error in (0.1, 0.2, 0.4):
        steps = prune(model, error=error)
    assert steps.layers == prune(once, error=0.4).layers


def test_all_of_a_zero_layer_goes():
    model = net()
    nn.init.zeros_(model.body[0].weight)
    report = prune(model, error=0.0)
    assert [layer.kept for layer in report.layers] == [0, 30]
    assert report.error == 0


def test_pruning_sees_the_weights_as_they_are_now():
    """torch renews a masked weight at the next forward pass only."""
    model = net()
    prune(model, keep=0.5)
    layer = model.body[0]
    with torch.no_grad():
        first = int(layer.weight_mask[:, 0].nonzero()[0])
        layer.weight_orig[first] = 100.0
    prune(model, keep=1 / 40, layers=layer)
    assert column_norms(masked(layer)).nonzero().flatten().tolist() == [first]


def test_global_scope_compares_columns_of_all_layers():
    model, original = net(), net()
    report = prune(model, keep=0.5, scope="global")
    norms = torch.cat([column_norms(masked(original.body[i])) for i in (0, 2)])
    after = torch.cat([column_norms(masked(model.body[i])) for i in (0, 2)])
    assert report.kept == 35
    assert report.layers[0].kept != 20
    assert norms[after > 0].min() >= norms[after == 0].max()
    report = prune(net(), error=ROOT, scope="global")
    assert report.error <= ROOT
    assert max(layer.error for layer in report.layers) > ROOT


def test_single_weights_by_magnitude():
    model, original = net(), net()
    report = prune(model, keep=0.1, unit="weight")
    weight, pruned = masked(original.body[2]), masked(model.body[2])
    assert int((pruned != 0).sum()) == 120 == report.layers[1].kept_parameters
    assert weight[pruned != 0].abs().min() >= weight[pruned == 0].abs().max()
    assert report.layers[1].error == pytest.approx(float((weight - pruned).norm() / weight.norm()))


def test_filters_are_columns():
    conv = nn.Conv2d(2, 6, 3)
    report = prune(conv, keep=0.5, layers=conv)
    assert report.kept_parameters == 3 * 2 * 9
    assert int((column_norms(masked(conv)) > 0).sum()) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": "nothing"}, ValueError, "no layer 'nothing' in the model"),
        ({"layers": ["body.1"]}, ValueError, r"no weight of dimension >= 2 in this layer: ReLU"),
        ({"layers": []}, ValueError, "at least one layer"),
        ({"layers": nn.Linear(2, 2)}, ValueError, "not in the model"),
        ({"example": torch.ones(0, 5)}, ValueError, r"one input or more, got shape \(0, 5\)"),
        ({"example": torch.tensor(1.0)}, ValueError, r"one input or more, got shape \(\)"),
        ({"unit": "row"}, ValueError, "unit must be one of"),
        ({"scope": "all"}, ValueError, "scope must be one of"),
    ],
)
def test_bad_arguments_leave_the_model_alone(arguments, error, message):
    model = net()
    with pytest.raises(error, match=message):
        prune(model, keep=0.5, **arguments)
    assert not torch_prune.is_pruned(model)


def test_a_bad_weight_in_the_last_layer_leaves_the_first_alone():
    model = net()
    with torch.no_grad():
        model.body[2].weight[0, 0] = math.inf
    with pytest.raises(ValueError, match="must be finite"):
        prune(model, keep=0.5)
    assert not torch_prune.is_pruned(model)


def test_a_layer_torch_cannot_mask_leaves_the_others_alone():
    model = nn.ModuleDict(
        {"a": nn.Linear(3, 4), "b": nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))}
    )
    for layers in (["a", "b"], model):
        with pytest.raises(ValueError, match=r"b \(ParametrizedLinear\).*remove_parametrizations"):
            prune(model, keep=0.5, layers=layers)
    assert not torch_prune.is_pruned(model)
    model = nn.Module()
    model.body, model.head = nn.LSTM(3, 4), nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"no parameter 'weight' to prune in body \(LSTM\)"):
        prune(model, keep=0.5, layers="body")
    with pytest.raises(ValueError, match=r"no layer can be taken: body \(LSTM\) is no linear"):
        prune(model, keep=0.5)
    model.body = nn.Linear(3, 4)
    plain = model.body.weight.detach() * 1
    del model.body.weight
    model.body.weight = plain
    model.body.other = nn.Parameter(torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"no parameter 'weight' to prune in body \(Linear\)"):
        prune(model, keep=0.5)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("inner", [(), ("body",)])
def test_parametrized_layers_are_not_skipped(inner):
    layer = nn.Linear(3, 4)
    nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 3), layer), "head": nn.Linear(4, 2)})
    with pytest.raises(ValueError, match=r"body\.1 \(ParametrizedLinear\).*remove_param"):
        prune(model, keep=0.5, layers=inner or None)
    with pytest.raises(ValueError, match=r"model itself\) \(ParametrizedLinear\).*remove_param"):
        prune(layer, keep=0.5, layers=layer)
    assert not torch_prune.is_pruned(model)
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert len(prune(model, keep=0.5, layers=inner or None).layers) == 2


class Sub(nn.Linear):
    pass


def of_many_kinds():
    model = nn.Module()
    model.embed = nn.Embedding(7, 8)
    model.attention = nn.MultiheadAttention(8, 2)
    model.convs = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ConvTranspose1d(4, 8, 3), nn.Conv3d(2, 2, 1))
    model.body = Sub(8, 8)
    model.pairs = nn.Bilinear(2, 3, 4)
    model.head = nn.Linear(8, 2)
    return model


def test_linear_layers_and_convolutions_are_taken_unless_others_are_named():
    model = of_many_kinds()
    report = prune(model, keep=0.5)
    assert [layer.name for layer in report.layers] == ["convs.0", "convs.2", "body"]
    left = ("embed", "attention", "attention.out_proj", "convs.1", "pairs", "head")
    assert report.protected == left
    inside = prune(of_many_kinds().convs, keep=0.5, layers=["0", "2"])
    assert inside.protected == ("1",)
    model = of_many_kinds()
    assert [layer.name for layer in prune(model, keep=0.5, layers=["convs"]).layers] == [
        "convs.0",
        "convs.2",
    ]
    named = prune(model, keep=0.5, layers=["embed", model.pairs])
    assert [(layer.name, layer.units) for layer in named.layers] == [("embed", 7), ("pairs", 4)]
    assert math.isnan(named.flops)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convs.1", r"convs\.1 \(ConvTranspose1d\) has its inputs, not its units, along"),
        ("attention", r"no parameter 'weight' to prune in attention \(MultiheadAttention\)"),
        ("attention.out_proj", r"Linear\) is never called: its nn\.MultiheadAttention reads"),
    ],
)
def test_layers_of_other_kinds_that_are_refused(name, message):
    model = of_many_kinds()
    with pytest.raises(ValueError, match=message):
        prune(model, keep=0.5, layers=["body", name])
    assert not torch_prune.is_pruned(model)


def test_the_mask_of_a_projection_of_attention_would_not_be_renewed():
    """Why it is refused."""
    attention, x = nn.MultiheadAttention(8, 2), torch.ones(3, 1, 8)
    torch_prune.random_unstructured(attention.out_proj, "weight", 0.5)
    stale = attention.out_proj.weight.detach().clone()
    with torch.no_grad():
        attention.out_proj.weight_orig.mul_(3)
    attention(x, x, x)
    assert torch.equal(attention.out_proj.weight, stale)


def test_a_container_stands_for_what_is_inside():
    model = net()
    report = prune(model, keep=0.5, layers=["head", "body"])
    assert [layer.name for layer in report.layers] == ["body.0", "body.2", "head"]


def test_an_empty_model_and_one_without_head():
    with pytest.raises(ValueError, match="no weight of dimension >= 2"):
        prune(nn.Sequential(), keep=0.5)
    with pytest.raises(ValueError, match=r"named 'head'.* by layers=.*0 \(Linear\)"):
        prune(nn.Sequential(nn.Linear(2, 2)), keep=0.5)
