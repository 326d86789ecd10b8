import copy
import operator
import textwrap
import types

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune as torch_prune

from heavytail import prune
from heavytail.compression.compaction import compact
from heavytail.experiments.models import FullyConnected


def seeded(model):
    """Give every parameter and running statistic a number of its own; float64, eval mode."""
    generator = torch.Generator().manual_seed(7)
    model = model.double()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.normal_(0, 0.5, generator=generator)
        for name, tensor in model.named_buffers():
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model.eval()


def kill(layer, *units):
    """Set the incoming weights of some units to zero, for good."""
    with torch.no_grad():
        layer.weight[list(units)] = 0


def inputs(*shape, n=16):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, *shape, generator=generator, dtype=torch.float64)


def output(model, x):
    with torch.no_grad():
        return model(x)


def shapes(model):
    return [tuple(p.shape) for _, p in sorted(model.named_parameters()) if p.dim() > 1]


def assert_same(model, x, small=None):
    """Return the compact model, after comparing it in float64."""
    small = compact(model) if small is None else small
    there, here = output(model, x), output(small, x)
    assert there.isfinite().all()
    assert there.std() > 0
    assert float((there - here).abs().max()) <= 1e-10 * float(there.abs().max())
    return small


def mlp(act=nn.ReLU, bias=True):
    """5 inputs, layers of 8 and 6, 3 outputs; units 1, 4, 5 and 0, 3 are dead."""
    first, second = nn.Linear(5, 8, bias=bias), nn.Linear(8, 6, bias=bias)
    model = seeded(nn.Sequential(first, act(), second, act(), nn.Linear(6, 3)))
    kill(model[0], 1, 4, 5)
    kill(model[2], 0, 3)
    return model


def test_what_prune_masks_is_cut(generator):
    size = {"width": 20, "hidden_layers": 2, "dtype": torch.float64}
    model = FullyConnected(5, 3, **size, generator=generator)
    names = list(model.state_dict())
    first, second = (layer.kept for layer in prune(model, keep=0.3).layers)
    small = assert_same(model, inputs(5))
    assert shapes(small) == [(first, 5), (second, first), (3, second)]
    assert list(small.state_dict()) == names
    assert (small.width, small.head.in_features, small.body[0].out_features) == (20, second, first)


# Where tracing refuses a size in a function's tuple, so does compact: 2.4 to 2.8 do, 2.13 does not.
OF_LATE = pytest.mark.skipif(torch.__version__ < "2.13", reason="older torch cannot trace it")


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Softplus, nn.PReLU])
@pytest.mark.parametrize("bias", [True, False])
def test_constants_are_folded_into_the_next_bias(act, bias):
    model = mlp(act, bias)
    small = assert_same(model, inputs(5))
    assert shapes(small) == [(5, 5), (4, 5), (3, 4)]
    dead, alive = [1, 4, 5], [1, 2, 4, 5]
    zeros = torch.zeros(8, dtype=torch.float64)
    constants = model[1](model[0].bias if bias else zeros)[dead]
    folded = (model[2].bias if bias else zeros[:6]) + model[2].weight[:, dead] @ constants
    if not folded.any():
        assert small[2].bias is None
        return
    assert torch.allclose(small[2].bias, folded[alive], rtol=1e-13)
    small[2].bias = nn.Parameter(model[2].bias[alive] if bias else torch.zeros(4).double())
    assert float((output(small, inputs(5)) - output(model, inputs(5))).abs().max()) > 0.01


def test_a_unit_that_sees_dead_units_only_is_dead():
    model = mlp(nn.Tanh)
    model[2].weight.data[5, [0, 2, 3, 6, 7]] = 0  # it sees units 1, 4 and 5 alone
    assert shapes(assert_same(model, inputs(5))) == [(5, 5), (3, 5), (3, 3)]


class Conv(nn.Module):
    """Two convolutions with batch-norm, a pool and a linear head."""

    def __init__(self, padding=1, pool=None, size=2, mode="zeros"):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=padding, padding_mode=mode), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 5, 3, padding=padding, padding_mode=mode), nn.BatchNorm2d(5), nn.ReLU(),
            pool or nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(),
        )  # fmt: skip
        self.head = nn.Linear(5 * size**2, 3)

    def forward(self, x):
        return self.head(self.body(x))


def conv(*arguments, beta=None, **options):
    """Filters 1, 2, 4 and 0, 3 are dead; their batch-norms put out relu(beta')."""
    model = seeded(Conv(*arguments, **options))
    kill(model.body[0], 1, 2, 4)
    kill(model.body[3], 0, 3)
    with torch.no_grad():
        for i in (1, 4):
            model.body[i].running_mean.zero_()
            model.body[i - 1].bias.zero_()
            model.body[i].bias.fill_(beta)
    return model


def test_a_constant_that_is_padded_with_zeros_stays():
    """It is relu(beta) inside and 0 at the border; behind the last convolution it is folded."""
    model = conv(beta=0.7)
    small = assert_same(model, inputs(2, 4, 4))
    assert shapes(small) == [(6, 2, 3, 3), (3, 6, 3, 3), (3, 12)]
    assert (small.body[3].out_channels, small.body[4].num_features) == (3, 3)
    assert small.body[4].running_var.shape == (3,)


def test_a_padded_constant_that_nobody_sees_is_cut():
    model = conv(beta=0.7)
    model.body[3].weight.data[:, [1, 4]] = 0
    model.body[3].weight.data[1, [0, 3, 5]] = 0  # it sees filter 2 alone, not constant at borders
    small = assert_same(model, inputs(2, 4, 4))
    assert (small.body[0].out_channels, small.body[3].out_channels) == (4, 3)


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({"padding": 0}, 8),
        ({"mode": "circular"}, 4),
        ({"mode": "reflect", "padding": "same"}, 4),
    ],
)
def test_without_zeros_around_it_a_constant_is_folded(options, side):
    model = conv(beta=0.7, **options)
    small = assert_same(model, inputs(2, side, side))
    assert shapes(small) == [(3, 2, 3, 3), (3, 3, 3, 3), (3, 12)]
    if options.get("padding") == 0:
        dead = model.body[3].weight[:, [1, 2, 4]].sum((1, 2, 3)) * 0.7
        assert torch.allclose(small.body[3].bias, dead[[1, 2, 4]], rtol=1e-12)


@pytest.mark.parametrize(
    ("pool", "size", "beta", "filters"),
    [
        (nn.AdaptiveAvgPool2d(1), 1, 0.7, 3),
        (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), 2, 0.7, 3),
        (nn.MaxPool2d(3, stride=2, padding=1), 2, 0.7, 3),
        (nn.AvgPool2d(3, stride=2, padding=1), 2, 0.7, 5),
        (nn.AvgPool2d(2, divisor_override=3), 2, 0.7, 5),
        (nn.AvgPool2d(3, stride=2, padding=1), 2, -0.7, 3),
    ],
)
def test_pools_keep_constants_unless_they_average_zeros_with_them(pool, size, beta, filters):
    small = assert_same(conv(1, pool, size, beta=beta), inputs(2, 4, 4))
    assert shapes(small)[1:] == [(filters, 6 if beta > 0 else 3, 3, 3), (3, filters * size**2)]


@pytest.mark.parametrize("d", [1, 3])
def test_other_dimensions(d):
    conv, norm = getattr(nn, f"Conv{d}d"), getattr(nn, f"BatchNorm{d}d")
    pool = getattr(nn, f"AvgPool{d}d")
    layers = [conv(2, 4, 3, stride=2, dilation=2), norm(4), nn.Tanh()]
    layers += [conv(4, 3, 2, bias=False), nn.PReLU(3), pool(2), nn.Flatten()]
    model = seeded(nn.Sequential(*layers, nn.Linear(3 * 2**d, 2)))
    kill(model[0], 0, 2)
    kill(model[3], 1)
    small = assert_same(model, inputs(2, *(13,) * d, n=4))
    assert [small[i].weight.shape[0] for i in (0, 1, 3, 4)] == [2, 2, 2, 2]
    assert small[4].num_parameters == 2
    assert small[7].weight.shape == (2, 2 * 2**d)


class Forward(nn.Module):
    """Convolutions a, b of 4 maps, a batch-norm and a linear head, joined by a function."""

    def __init__(self, join, features=4):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(features, 3)
        self.join = join

    def forward(self, x):
        return self.join(self, x)


def joined(join, features=4):
    """Maps 0, 1 of a and 1, 2 of b are dead."""
    model = seeded(Forward(join, features))
    kill(model.a, 0, 1)
    kill(model.b, 1, 2)
    return model


def pooled(x):
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("features", "kept", "step"),
    [
        (4, 2, pooled),
        (4, 2, lambda x: x.mean((2, 3), keepdim=True).flatten(1)),
        (4, 2, lambda x: x.amax((2, 3))),
        (64, 32, lambda x: torch.flatten(x, start_dim=1)),
        (64, 32, lambda x: x.view(x.size(0), -1)),
        pytest.param(64, 32, lambda x: torch.reshape(x, (x.shape[0], -1)), marks=OF_LATE),
        (4, 2, lambda x: functional.max_pool2d(functional.avg_pool2d(x, 2), 2).flatten(1)),
        (16, 16, lambda x: functional.avg_pool2d(x, 4, 4, 2).flatten(1)),
    ],
)
def test_steps_from_maps_to_features(features, kept, step):
    model = joined(lambda net, x: net.head(step(net.a(x).tanh())), features)
    assert assert_same(model, inputs(2, 6, 6)).head.in_features == kept


@pytest.mark.parametrize(
    "act",
    [
        functional.silu, torch.sigmoid, lambda x: x.sigmoid(), lambda x: 3 - 2 * x / 5,
        lambda x: functional.elu(x, alpha=0.5), lambda x: -(x * 2 + 1),
        lambda x: torch.sub(x, 1, alpha=3), lambda x: functional.relu(x, inplace=True) + 1,
        lambda x: x.mul_(2).add(1),
    ],
)  # fmt: skip
def test_functions_of_entries(act):
    model = joined(lambda net, x: net.head(pooled(net.b(act(net.a(x))))))
    small = assert_same(model, inputs(2, 6, 6))
    assert (small.a.out_channels, small.b.out_channels) == (2, 2)


@pytest.mark.parametrize("combine", [operator.add, operator.sub, operator.mul, torch.add])
def test_summands_are_cut_where_both_are_dead(combine):
    """a has dead maps 0, 1 and b 1, 2: only map 1 of the sum is constant."""

    def join(net, x):
        x = net.a(x).tanh()
        return net.head(pooled(net.norm(combine(x, net.b(x).tanh()))))

    model = joined(join)
    model.b.weight.data[[0, 3], 1:] = 1.0
    small = assert_same(model, inputs(2, 6, 6))
    assert shapes(small) == [(3, 2, 3, 3), (3, 3, 1, 1), (3, 3)]
    assert small.norm.num_features == 3


def written(maps, other):
    """Take something off what is known by another name too."""
    operator.isub(functional.dropout(maps, training=False), other)
    return maps


@pytest.mark.parametrize(
    "maps",
    [
        lambda net, x: net.a(x) - net.c(x),
        lambda net, x: written(net.a(x), net.c(x)),
        lambda net, x: written(net.a(x), x.mean()),
    ],
)
def test_a_constant_minus_something_else_is_no_constant(maps):
    """Map 0 of a is constant, that of c is not; map 3 of b sees their difference alone."""
    model = joined(lambda net, x: net.head(pooled(net.b(maps(net, x)).tanh())))
    model.c = seeded(nn.Conv2d(2, 4, 3))
    kill(model.c, 1, 2)
    model.b.weight.data[3, 1:] = 0
    assert assert_same(model, inputs(2, 6, 6)).b.out_channels == 2


@pytest.mark.parametrize(
    "write",
    [torch.relu_, lambda x: x.add_(1.5), lambda x: operator.isub(x, 2), lambda x: x.mul_(x)],
)
def test_what_is_written_in_place_is_seen_under_all_names(write):
    """b reads its input before, the sum reads it after."""

    def join(net, x):
        maps = net.a(x)
        same = functional.dropout(maps, training=False)
        before = net.b(maps)
        return net.head(pooled(write(same) + maps + before))

    model = joined(join)
    model.a.bias.data = torch.tensor([-1.0, 2.0, 1.0, -1.0]).double()
    model.b.weight.data[1, :2] = 1.0
    assert assert_same(model, inputs(2, 6, 6)).a.out_channels == 3


def test_outputs_are_never_cut():
    model, x = joined(lambda net, x: {"maps": net.b(functional.relu(net.a(x)))}), inputs(2, 6, 6)
    small = compact(model)
    assert shapes(small) == [(2, 2, 3, 3), (4, 2, 1, 1), (3, 4)]
    assert torch.allclose(small(x)["maps"], model(x)["maps"], rtol=1e-10)


def test_sizes_are_multiples_where_asked():
    for left, multiple_of, size in (
        (22, 1, 22), (22, 8, 24), (22, 64, 50), (0, None, 1), (0, 8, 8), (0, 64, 50),
        (20, None, 20), (500, None, 500), (505, None, 512), (1000, None, 1008), (505, 1, 505),
    ):  # fmt: skip
        n = 50 if left < 50 else 1100
        model = seeded(nn.Sequential(nn.Linear(6, n), nn.Tanh(), nn.Linear(n, 3)))
        kill(model[0], *range(n - left))
        small = compact(model, multiple_of=multiple_of)
        assert small[0].out_features == size
        assert torch.allclose(output(small, inputs(6)), output(model, inputs(6)), atol=1e-12)


def unchanged(model, message, **options):
    """Assert that compact refuses a model, and leaves it alone."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        compact(model, multiple_of=1, **options)
    assert list(model.state_dict()) == list(before)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda net, x: torch.cat([x, x], 1), "dead channels of a cannot be cut: they reach cat"),
        (lambda net, x: x.softmax(1), r"they reach softmax \(softmax\), which is not followed"),
        (lambda net, x: x / x.shape[1], r"getattr.*which may read the number of channels"),
        (lambda net, x: x.view(1, -1), r"\(view\), which is followed as x.flatten"),
        (lambda net, x: x.view(x.size(0) * 2, -1), "which is followed as x.flatten"),
        (lambda net, x: x.mean(1), r"\(mean\), which is not along the channels"),
        (lambda net, x: net.head(x), r"reach head \(Linear\), whose inputs are laid out"),
        (lambda net, x: functional.dropout(x), r"\(dropout\), which is active in eval mode"),
        (lambda net, x: x + pooled(x), r"\(add\), whose inputs are laid out in another way"),
        (lambda net, x: x + x.transpose(0, 1), r"reach transpose \(transpose\), which is not"),
        (lambda net, x: net.head(pooled(x)) + net.a.weight.sum(), "of a are read more than once"),
        (lambda net, x: net.head(pooled(net.b(net.b(x)))), "of b are read more than once"),
        (lambda net, x: x if x.sum() > 0 else -x, "cannot be traced by torch.fx: symbolically"),
        (lambda net, x: net.head(pooled(x)) / net.head.in_features, "number of channels.*truediv"),
    ],
)
def test_steps_that_are_not_followed(step, message):
    model = joined(lambda net, x: step(net, net.a(x).relu()))
    kill(model.b, 0)
    unchanged(model, message)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(4, 4, 1, groups=2), r"reach _1 \(Conv2d\), which has groups"),
        (nn.BatchNorm2d(4, track_running_stats=False), r"\(BatchNorm2d\), Expected more than 1"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), "ParametrizedConv2d"),
        (nn.MaxPool2d(2, return_indices=True), "which returns more than a tensor"),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), r"reach _1_1 \(BatchNorm1d\), running"),
    ],
)
def test_layers_that_are_not_followed(layer, message):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), layer).double()
    compact(model)  # nothing to cut
    kill(model[0], 1)
    compact(model, multiple_of=4)  # nor where four of four are asked for
    unchanged(model, message)


def test_layers_that_do_not_what_their_class_does():
    hooked, patched, root = mlp(), mlp(), mlp()
    hooked[1].register_forward_hook(lambda module, arguments, output: output + 1)
    patched[1].forward = lambda x: x + 1
    unchanged(hooked, r"they reach _1 \(ReLU\), which has hooks, or a forward of its own")
    unchanged(patched, r"they reach _1 \(ReLU\), which has hooks, or a forward of its own")
    root.forward = types.MethodType(lambda net, x: net[4](net[2](net[0](x).tanh()).relu()), root)
    assert shapes(assert_same(root, inputs(5))) == [(5, 5), (4, 5), (3, 4)]
    root.forward = lambda x: patched[0](x)
    unchanged(root, "cannot be traced by torch.fx: module is not installed")


def test_layers_that_share_a_weight():
    model = seeded(nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.Linear(5, 2)))
    model[2].weight = model[0].weight
    tied = compact(model)
    assert tied[2].weight is tied[0].weight
    prune(model, keep=0.5, layers=["0"])  # the mask is of one of the two
    assert_same(model, inputs(5))
    kill(model[2], 1)
    model[0] = nn.Linear(5, 5).double()
    model[0].weight = model[2].weight
    unchanged(model, "parameters of 0 are read more than once")


def test_dead_units_inside_a_layer_that_is_not_followed():
    model = nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    compact(seeded(model))
    kill(model[1].linear1, 1, 2)
    unchanged(model, r"of 1\.linear1 cannot be cut: they lie in _1 \(TransformerEncoderLayer\)")


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(12), nn.PReLU(12)])
def test_channels_of_which_dimension(layer):
    """Behind a linear layer they may be (N, 12) or (N, 12, 12), where the layer acts on others."""
    model = seeded(nn.Sequential(nn.Linear(6, 12), nn.Linear(12, 12), layer, nn.Linear(12, 3)))
    assert output(compact(model), inputs(12, 6)).shape == (16, 12, 3)  # nothing was taken for known
    kill(model[1], *range(1, 12))
    model[3].weight.data[0, 0] = 0  # a constant, from (N, 12)
    for multiple_of, n in ((1, 1), (12, 12)):
        small = assert_same(model, inputs(6), compact(model, multiple_of=multiple_of))
        assert shapes(small) == [(12, 6), (n, 12), (3, n)]
        assert_same(small, inputs(6))  # compact once more
        with pytest.raises(ValueError, match=r"must get shape \(N, features\), got \(16, 12, "):
            compact(small)(inputs(12, 6))
    assert_same(nn.Sequential(*model[:2], nn.ReLU(), model[3]), inputs(12, 6))
    unchanged(model, r"must get shape \(N, features\)", inputs=(inputs(12, 6),))
    flat = nn.Sequential(*model[:2], nn.Flatten(), nn.Linear(12, 3)).double()
    unchanged(flat, r"reach _2 \(Flatten\), whose inputs are laid out")


def test_what_is_not_taken():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        compact(pooled)
    with pytest.raises(ValueError, match="multiple_of must be >= 1, got 0"):
        compact(mlp(), multiple_of=0)
    compiled = mlp()
    compiled._orig_mod = mlp()  # as torch.compile keeps what it compiles
    unchanged(compiled, r"model is compiled: take model\._orig_mod")


class Options(nn.Module):
    """As in language models, no argument is required; unit 0 of the first layer is dead."""

    def __init__(self):
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(9, 5), nn.Linear(5, 4), nn.Linear(4, 2)
        kill(seeded(self).a, 0)

    def forward(self, ids=None, mask=None, *rest, embeds=None, double=False, **options):
        if (ids is None) == (embeds is None):
            raise ValueError("either ids or embeds")
        x = self.a(self.table(ids) if embeds is None else embeds)
        x = x if mask is None else x * mask
        x = x.softmax(1) if rest or options.get("soft") is not None else x
        return {"out": self.b(2 * x if double else x)}


IDS, X, MASK = torch.arange(8).view(2, 4), inputs(4, 5, n=2), inputs(4, 4, n=2)


@pytest.mark.parametrize(
    ("given", "others", "message"),
    [
        ({"ids": IDS}, {"embeds": X}, "ids must be a tensor, as when compacted, got None"),
        ({"ids": IDS}, {"ids": IDS, "mask": MASK}, "mask must be None, .*, got a tensor"),
        ({"embeds": X, "double": True}, {"embeds": X}, "double must be True, .*, got False"),
        ((IDS, None), (IDS, None, 1), r"rest must be \(\), .*, got \(1,\)"),
        ((IDS,), {"ids": IDS, "soft": X}, r"options must be {}, .*, got {'soft': a tensor}"),
    ],
)
def test_arguments_are_those_that_were_traced(given, others, message):
    def call(net, arguments):
        return (net(**arguments) if isinstance(arguments, dict) else net(*arguments))["out"]

    model = Options()
    unchanged(model, "cannot be traced by torch.fx: either ids or embeds")
    small = copy.deepcopy(compact(compact(model, inputs=given), inputs=given))
    assert shapes(small) == [(3, 5), (2, 3), (9, 5)]
    assert torch.allclose(call(small, given), call(model, given), rtol=1e-12)
    assert call(model, others).isfinite().all()
    with pytest.raises(ValueError, match=message):
        call(small, others)


class Masked(nn.Sequential):
    def forward(self, x, mask):
        return self[1](self[0](x) if mask is None else self[0](x) * mask)


class Asking(nn.Sequential):
    def forward(self, x):
        return self[1](self[0](x).relu() if isinstance(x, torch.Tensor) else self[0](x).tanh())


def test_arguments_without_default_are_tensors():
    layers, x, mask = (nn.Linear(5, 4), nn.Linear(4, 2)), inputs(5), inputs(4)
    model = seeded(Masked(*layers))
    kill(model[0], 0)
    assert torch.equal(compact(model)(x, mask), model(x, mask))
    with pytest.raises(ValueError, match="mask must be a tensor"):
        compact(model)(x, None)
    small = compact(model, inputs=(x, None))
    assert small[0].out_features == 3
    assert torch.allclose(small(x, None), model(x, None), rtol=1e-12)
    # What is traced is no torch.Tensor: the outputs tell.
    unchanged(Asking(*layers), "forward does not do as it was traced", inputs=(x,))


def test_the_original_keeps_its_masks_and_bits():
    model = conv(beta=0.7)
    prune(model, keep=0.5)
    torch_prune.random_unstructured(model.body[0], "bias", 0.5)
    torch_prune.random_unstructured(model.body[3], "weight", 0.5)  # a mask on a mask
    model.train()
    model.body[1].eval()
    before = copy.deepcopy(model.state_dict())
    small = compact(model)
    assert torch_prune.is_pruned(model)
    assert not torch_prune.is_pruned(small)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    assert type(small) is Conv
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert sorted(small.state_dict()) == sorted(conv(beta=0.7).state_dict())
    assert_same(model.eval(), inputs(2, 4, 4), small.eval())


def test_the_copy_is_a_module_as_any_other():
    model, x = mlp(bias=False), inputs(5)
    model[2].weight.requires_grad_(False)
    small = compact(model)
    assert [p.requires_grad for p in small.parameters()] == [True, False, True, True]
    assert torch.equal(copy.deepcopy(small)(x), small(x))
    assert torch.equal(compact(small)(x), small(x))  # nothing more to cut
    assert torch.allclose(torch.export.export(small, (x,)).module()(x), small(x), rtol=1e-12)
    for dtype in (torch.float16, torch.bfloat16):
        low = copy.deepcopy(model).to(dtype)
        here, there = (output(net, x.to(dtype)).double() for net in (compact(low), low))
        assert float((here - there).abs().max()) < 8 * torch.finfo(dtype).eps * there.abs().max()


def test_the_recipe_for_reading_it_back(tmp_path):
    """It stands in the docstring; from a file, into a model of other weights."""
    model, other, x = conv(beta=0.7), conv(beta=0.1), inputs(2, 4, 4)
    torch_prune.random_unstructured(model.body[0], "bias", 0.5)
    small = compact(model)
    torch.save(small.state_dict(), tmp_path / "small.pt")
    state = torch.load(tmp_path / "small.pt", weights_only=True)
    recipe = compact.__doc__.split("as built by:\n")[1].split("Args:")[0]
    exec(textwrap.dedent(recipe), {"model": other, "state": state, "nn": nn})
    assert torch.equal(other(x), small(x))
    assert [*other.state_dict()] == [*state]
    assert other.body[1].running_var.shape == (6,)
    assert torch.equal(other.body[:5].train()(x), small.body[:5].train()(x))
    assert all(map(torch.equal, other.buffers(), small.buffers()))  # which they have updated


def random_network(seed):
    """Return a network of random layers, some units dead, for inputs of shape (3, 9, 9)."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    maps, layers = 3, []
    for _ in range(pick(1, 2, 3)):
        before, maps, mode = maps, pick(1, 2, 4, 6), pick("zeros", "zeros", "circular")
        padding = {"padding": pick(0, "same"), "padding_mode": mode}
        layers += [
            nn.Conv2d(before, maps, pick(1, 3), **padding),
            pick(nn.BatchNorm2d(maps), nn.Identity()),
            pick(nn.ReLU(inplace=True), nn.Tanh(), nn.PReLU(maps), nn.Dropout()),
            pick(nn.MaxPool2d(2, 1), nn.AvgPool2d(3, 1, padding=1), nn.Identity()),
        ]
    layers += [nn.Flatten(), nn.LazyLinear(width := pick(1, 5)), nn.ReLU(), nn.Linear(width, 2)]
    model = nn.Sequential(*layers).double()
    model(inputs(3, 9, 9))
    for layer in seeded(model)[:-1]:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            dead = torch.rand(len(layer.weight), generator=generator) < pick(0.0, 0.5, 1.0)
            kill(layer, *dead.nonzero().flatten().tolist())
            layer.bias.data *= pick(0.0, 1.0)
    return model


def test_networks_at_random():
    smaller = 0
    for seed in range(60):
        model, x = random_network(seed), inputs(3, 9, 9, n=4)
        small = compact(model)
        assert torch.allclose(output(model, x), output(small, x), rtol=1e-10, atol=1e-12), seed
        smaller += shapes(small) != shapes(model)
    assert smaller > 30


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(4, 6, 3, groups=2)])
def test_dead_units_of_layers_that_are_not_followed_are_no_secret(layer):
    model = nn.Sequential(copy.deepcopy(layer), nn.ReLU(), nn.Conv2d(6, 3, 3)).eval()
    assert list(compact(model).state_dict()) == list(model.state_dict())
    prune(model, keep=0.5, layers="0")
    with pytest.raises(ValueError, match="dead channels of 0 cannot be cut: they lie in _0"):
        compact(model)
