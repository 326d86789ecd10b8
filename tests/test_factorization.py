import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune as torch_prune

from heavytail import LowRank, compact, factorization_report, factorize, prune, relative_error


def net(dtype=torch.float64):
    torch.manual_seed(1)
    model = nn.Module()
    model.body = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 30, bias=False))
    model.head = nn.Linear(30, 3)
    return model.to(dtype)


def conv_net():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, (3, 5), stride=2, padding=1, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, dilation=2, bias=False),
    )
    return model.double()


def matrix(pair):
    """Return the matrix of a factorized layer, columns as rows."""
    first, second = (part.weight.detach().flatten(1) for part in pair)
    return second @ first


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_the_matrix_is_the_nearest_of_its_rank(rank):
    model = net()
    small = factorize(model, rank=rank)
    for before, after in zip((model.body[0], model.body[2]), (0, 2), strict=True):
        W, found = before.weight.detach(), matrix(small.body[after])
        s = torch.linalg.svdvals(W)
        assert int(torch.linalg.matrix_rank(found)) == rank
        error = float((W - found).norm() / W.norm())
        assert error == pytest.approx(float(s[rank:].norm() / s.norm()), abs=1e-12)
        assert small.body[after].error == pytest.approx(error, abs=1e-12)
    assert small.head.weight is not model.head.weight
    assert torch.equal(small.head.weight, model.head.weight)


@pytest.mark.parametrize("error", [0.1, 0.5, 0.9])
def test_no_smaller_rank_would_do(error):
    model = net()
    for name, pair in zip(("body.0", "body.2"), (0, 2), strict=True):
        found = factorize(model, error=error, layers=name).body[pair]
        s = torch.linalg.svdvals(model.get_submodule(name).weight.detach())
        assert found.error <= error
        assert float(s[found.rank - 1 :].norm() / s.norm()) > error
    full = factorize(model, error=0.0).body
    assert (full[0].rank, full[2].rank) == (12, 30)
    assert factorize(model, error=1.0).body[0].rank == 1


def test_at_full_rank_the_function_is_the_same():
    x = torch.randn(7, 12, dtype=torch.float64)
    model = net()
    assert torch.allclose(factorize(model, rank=99).body(x), model.body(x), atol=1e-13)
    images = torch.randn(2, 3, 15, 16, dtype=torch.float64)
    before = conv_net()
    after = factorize(before, rank=99, layers=["0", "2"])
    assert torch.allclose(after(images), before(images), atol=1e-13)


def test_convolutions():
    model = conv_net()
    small = factorize(model, rank=2, layers=["0", "2"])
    W, found = model[0].weight.detach(), matrix(small[0])
    s = torch.linalg.svdvals(W.flatten(1))
    error = float((W.flatten(1) - found).norm() / W.norm())
    assert error == pytest.approx(float(s[2:].norm() / s.norm()))
    # As if the weight had been replaced.
    with torch.no_grad():
        model[0].weight.copy_(found.view_as(W))
        model[2].weight.copy_(matrix(small[2]).view_as(model[2].weight))
    images = torch.randn(2, 3, 15, 16, dtype=torch.float64)
    assert torch.allclose(small(images), model(images), atol=1e-13)


def test_columns_are_worse_than_rank_at_equal_count(generator):
    """Eckart and Young: k columns are a matrix of rank k."""
    model = net()
    W = model.body[0].weight.detach()
    for k in (2, 5, 9):
        kept = torch.randperm(40, generator=generator)[:k]
        assert factorize(model, rank=k).body[0].error <= relative_error(W, kept)


def test_the_report():
    small = factorize(net(torch.float32), error=0.5)
    report = factorization_report(small)
    pairs = [small.body[0], small.body[2]]
    assert [layer.kept for layer in report.layers] == [pair.rank for pair in pairs]
    assert report.kept_parameters == sum(
        p.numel() for pair in pairs for n, p in pair.named_parameters() if n.endswith("weight")
    )
    assert report.parameters == 40 * 12 + 30 * 40
    lost = sum((pair.error * pair.norm) ** 2 for pair in pairs)
    assert report.error == pytest.approx(math.sqrt(lost / sum(pair.norm**2 for pair in pairs)))
    assert report.kept_flops == 2 * report.kept_parameters
    assert report.protected == ("head",)
    assert "ranks kept" in str(report)
    assert "rank=" in repr(small)


def test_it_saves_trains_and_exports(tmp_path):
    model = factorize(net(torch.float32).body, rank=2, layers=["0", "2"])
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = factorize(net(torch.float32).body.apply(scrambled), rank=2, layers=["0", "2"])
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    x = torch.randn(5, 12)
    assert torch.equal(other(x), model(x))
    exported = torch.export.export(model, (x,))
    assert torch.allclose(exported.module()(x), model(x))
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def scrambled(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight)


def test_a_pruned_model_is_factorized_as_pruned():
    model = net()
    prune(model, keep=0.1)
    small = factorize(model, error=1e-7)
    assert small.body[0].rank == 4
    assert torch.allclose(matrix(small.body[0]), model.body[0].weight.detach(), atol=1e-12)
    assert hasattr(model.body[0], "weight_mask")


def test_zero_weights_and_a_model_that_is_one_layer():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    small = factorize(layer, error=0.3, layers=[layer])
    assert (small.rank, small.error) == (1, 0.0)
    assert torch.equal(small(torch.ones(2, 4)), layer(torch.ones(2, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of rank and error"),
        ({"rank": 2, "error": 0.1}, "give one of rank and error"),
        ({"rank": 0}, "rank must be >= 1, got 0"),
        ({"error": 1.5}, r"error must be in \[0, 1\], got 1.5"),
        ({"rank": 1, "layers": "tail"}, "no layer 'tail'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        factorize(net(), **arguments)


def test_layers_that_cannot_be_factorized():
    with pytest.raises(ValueError, match=r"0 \(Embedding\) must be nn\.Linear or nn\.Conv1d to 3d"):
        factorize(nn.Sequential(nn.Embedding(5, 3)), rank=1, layers="0")
    with pytest.raises(ValueError, match="must have one group, got 2"):
        factorize(nn.Sequential(nn.Conv1d(4, 4, 3, groups=2)), rank=1, layers="0")
    broken = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(broken[0].weight, math.inf)
    with pytest.raises(ValueError, match="must be finite"):
        factorize(broken, rank=1, layers="0")
    with pytest.raises(ValueError, match="no factorized layer"):
        factorization_report(broken)
    for call in (lambda x: factorize(x, rank=1), factorization_report):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
            call("model")
    with pytest.raises(ValueError, match=r"named 'head'.* by layers="):
        factorize(broken, rank=1)


class Sub(nn.Linear):
    pass


def hooked(how):
    model = net()
    getattr(model.body[0], how)(lambda *arguments: None)
    return model


def with_body(*layers):
    model = net()
    model.body = nn.Sequential(*layers)
    return model


def shared():
    layer = nn.Linear(4, 4)
    return with_body(layer, nn.ReLU(), layer)


def tied():
    model = with_body(nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(4, 4))
    model.body[2].weight = model.body[1].weight
    return model


def normed():
    with pytest.warns(FutureWarning):
        return with_body(nn.utils.weight_norm(nn.Linear(4, 4)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: hooked("register_forward_hook"), "layer 'body.0' has hooks, which would be lost"),
        (lambda: hooked("register_forward_pre_hook"), "layer 'body.0' has hooks"),
        (lambda: hooked("register_full_backward_hook"), "layer 'body.0' has hooks"),
        (normed, "layer 'body.0' has hooks"),
        (shared, "layer 'body.0' is at 2 places of the model"),
        (tied, "layer 'body.1' shares its weight with another layer"),
        (
            lambda: with_body(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))),
            r"body\.0 \(ParametrizedLinear\) is parametrized.*remove_parametrizations",
        ),
        (lambda: with_body(Sub(4, 4)), r"no layer can be taken: body\.0 \(Sub\).*not a subclass"),
    ],
)
def test_layers_that_more_hangs_on_are_refused(model, message):
    model = model()
    names = list(model.state_dict())
    for layers in (None, "body"):
        with pytest.raises(ValueError, match=message):
            factorize(model, rank=1, layers=layers)
    assert list(model.state_dict()) == names


def test_a_layer_in_a_part_that_is_at_two_places():
    part = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model, x = with_body(part, part).double(), torch.randn(3, 4, dtype=torch.float64)
    small = factorize(model, rank=4)
    assert small.body[0] is small.body[1]
    assert torch.allclose(small.body(x), model.body(x), atol=1e-13)


def test_a_weight_that_is_no_parameter():
    layer = nn.Linear(4, 4)
    plain = layer.weight.detach() * 1
    del layer.weight
    layer.weight = plain
    layer.other = nn.Parameter(plain)
    with pytest.raises(ValueError, match="has a weight that is no parameter"):
        factorize(with_body(layer), rank=1)


def of_many_kinds():
    layers = [nn.Embedding(5, 8), nn.Linear(8, 8), Sub(8, 8), nn.Bilinear(2, 3, 4)]
    layers += [nn.Conv1d(4, 4, 3, groups=2), nn.Conv1d(4, 4, 3), nn.ConvTranspose1d(4, 4, 3)]
    return with_body(*layers, nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))


def test_what_is_taken_by_default():
    model = of_many_kinds()
    for layers in (None, model.body):
        small = factorize(model, rank=2, layers=layers)
        report = factorization_report(small)
        assert [layer.name for layer in report.layers] == ["body.1", "body.5"]
        inside = ("self_attn", "self_attn.out_proj", "linear1", "linear2")
        left = [*(f"body.{i}" for i in (0, 2, 3, 4, 6)), *(f"body.7.{name}" for name in inside)]
        assert report.protected == (*left, "head")
    x = torch.ones(1, 3, 8)
    with torch.no_grad():
        assert torch.equal(small.eval().body[7](x), model.eval().body[7](x))
    for name, message in (
        ("7.linear1", r"read by its nn\.TransformerEncoderLayer without a call"),
        ("7.self_attn.out_proj", "never called"),
        ("2", "not a subclass"),
    ):
        with pytest.raises(ValueError, match=message):
            factorize(model, rank=2, layers=f"body.{name}")


def test_factorizing_again():
    once = factorize(net(), rank=5, layers="body.0")
    twice = factorize(once, rank=3)
    assert [twice.body[i].rank for i in (0, 2)] == [5, 3]
    assert torch.equal(matrix(twice.body[0]), matrix(once.body[0]))
    for layers in ("body.0", "body.0.1", twice.body):
        with pytest.raises(ValueError, match=r"body\.0\.[01] \(Linear\) is factorized already"):
            factorize(twice, rank=1, layers=layers)
    with pytest.raises(ValueError, match="is factorized already"):
        factorize(twice, rank=1)


def test_layers_within_layers_by_hand():
    small = factorize(net(), rank=5, layers=["body.0", "body.2"])
    small.body[0][1] = factorize(small.body[0][1], rank=2, layers=[small.body[0][1]])
    small.body[2][0] = factorize(small.body[2][0], rank=2, layers=[small.body[2][0]])
    report = factorization_report(small)
    assert [layer.name for layer in report.layers] == ["body.0.1", "body.2.0"]
    assert report.protected == ("body.0.0", "body.2.1", "head")
    assert (small.body[0].rank, small.body[2].rank) == (5, 5)
    assert "rank=5" in repr(small)


def test_halves_that_are_pruned_and_cut():
    small = factorize(net(), rank=10, layers="body.0")
    before = factorization_report(small).layers[0]
    prune(small, keep=0.5, layers="body.0.0")
    layer = factorization_report(small).layers[0]
    assert (layer.kept, layer.kept_parameters) == (10, 5 * 12 + 40 * 10)
    assert (layer.error, layer.parameters) == (before.error, before.parameters)
    cut = compact(small.body)
    assert (cut[0].rank, cut[0].error) == (5, before.error)
    assert factorization_report(cut).layers[0].kept_parameters == 5 * 12 + 40 * 5
    torch_prune.remove(small.body[0][0], "weight")
    assert factorization_report(small).layers[0].kept_parameters == before.kept_parameters


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_squares_beyond_the_floats(size):
    model = net()
    with torch.no_grad():
        model.body[0].weight *= size
        model.body[2].weight *= size
    small, plain = factorize(model, error=0.3), factorize(net(), error=0.3)
    for i in (0, 2):
        assert small.body[i].rank == plain.body[i].rank
        assert small.body[i].error == pytest.approx(plain.body[i].error)
        assert small.body[i].norm / size == pytest.approx(plain.body[i].norm)
        W = model.body[i].weight.detach() / size
        assert float((matrix(small.body[i]) / size - W).norm() / W.norm()) <= 0.3
    report = factorization_report(small)
    assert report.error == pytest.approx(factorization_report(plain).error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_of_rank_one(dtype):
    layer = nn.Linear(30, 20).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.outer(torch.arange(1.0, 21), torch.arange(3.0, 33)))
    small = factorize(layer, error=0.0, layers=[layer])
    assert (small.rank, small.error) == (1, 0.0)
    assert torch.allclose(matrix(small), layer.weight.detach(), rtol=1e-6)
    assert factorize(layer, rank=3, layers=[layer]).rank == 3  # as asked for


def test_the_layers_know_their_sizes():
    small = factorize(net(), rank=2).body[0]
    sizes = [(half.in_features, half.out_features) for half in small]
    assert sizes == [(12, 2), (2, 40)]
    assert [type(half) for half in small] == [nn.Linear, nn.Linear]
    for d in (1, 2, 3):
        kind = getattr(nn, f"Conv{d}d")
        layer = kind(3, 7, 3, padding="same", dilation=2, padding_mode="circular")
        small = factorize(layer, rank=2, layers=[layer])
        assert [type(half) for half in small] == [kind, kind]
        assert [(half.in_channels, half.out_channels) for half in small] == [(3, 2), (2, 7)]
        assert [half.kernel_size for half in small] == [(3,) * d, (1,) * d]
        x = torch.randn(2, 3, *(6,) * d)
        full = factorize(layer, rank=7, layers=[layer])
        assert torch.allclose(full(x), layer(x), atol=1e-5)


def test_flags_are_kept():
    model = net()
    model.body[0].weight.requires_grad_(False)
    model.body[0].bias.requires_grad_(False)
    model.body[2].eval()
    state = torch.random.get_rng_state()
    small = factorize(model, rank=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [p.requires_grad for p in small.body[0].parameters()] == [False] * 3
    assert [p.requires_grad for p in small.body[2].parameters()] == [True] * 2
    assert [m.training for m in small.body[0].modules()] == [True] * 3
    assert [m.training for m in small.body[2].modules()] == [False] * 3
    assert small.body[0][1].bias is not model.body[0].bias
    assert list(small.body[0].state_dict()) == ["0.weight", "1.weight", "1.bias"]


def test_sizes_bytes_and_operations():
    report = factorization_report(factorize(net(), rank=2))
    assert [layer.units for layer in report.layers] == [12, 30]
    assert report.kept_bytes == 8 * report.kept_parameters
    assert factorization_report(factorize(net(torch.float32), rank=2)).bytes == 4 * 1680
    small = factorize(conv_net(), rank=2, layers=["0", "2"])
    assert math.isnan(factorization_report(small).flops)
    report = factorization_report(small, example=torch.ones(2, 3, 15, 16, dtype=torch.float64))
    assert [layer.positions for layer in report.layers] == [8 * 7, 4 * 3]
    assert report.flops == 2 * (8 * 45 * 56 + 6 * 72 * 12)
    assert report.kept_flops == 2 * (2 * (8 + 45) * 56 + 2 * (6 + 72) * 12)
    with pytest.raises(ValueError, match="one input or more"):
        factorization_report(small, example=torch.ones(0, 3, 15, 16))
    assert isinstance(small[0], LowRank)
