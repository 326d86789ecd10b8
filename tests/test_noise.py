import copy
import math
from functools import partial

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.utils import prune as torch_prune
from torch.utils._python_dispatch import TorchDispatchMode

from heavytail import (
    LambdaNoise,
    StableNoise,
    hidden_weights,
    noise_tail_constant,
    noise_vectors,
    prune,
)
from heavytail.noise import KINDS, _power, add_block
from tests.oracles import p_of_count, stable_phi, z_of_cosines

DIRECTION = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64)


def scale_along(kind, u, alpha):
    """Return the scale of <u, xi>, which is S(alpha) for every kind."""
    return {
        "shared": abs(float(u.sum())),
        "independent": float((u.abs() ** alpha).sum()) ** (1 / alpha),
        "isotropic": float(u.norm()),
    }[kind]


# The vectors.


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.5, 1.75, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_characteristic_function(kind, alpha, generator):
    xi = noise_vectors(kind, alpha, 200_000, 3, generator=generator, dtype=torch.float64)
    for t in (0.5, 1.0, 2.0):
        phi = stable_phi(alpha, scale_along(kind, DIRECTION, alpha))
        assert abs(z_of_cosines(xi @ DIRECTION, t, phi)) < 4
        for coordinate in xi.T:
            assert abs(z_of_cosines(coordinate, t, stable_phi(alpha))) < 4
    if alpha == 1.5:
        for other in set(KINDS) - {kind}:
            phi = stable_phi(alpha, scale_along(other, DIRECTION, alpha))
            assert abs(z_of_cosines(xi @ DIRECTION, 1.0, phi)) > 4


@pytest.mark.parametrize("d", [1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_tails_of_the_norms(kind, d, generator):
    n, alpha, r = 500_000, 1.3, 300.0
    xi = noise_vectors(kind, alpha, n, d, generator=generator, dtype=torch.float64)
    expected = n * noise_tail_constant(kind, alpha, d) * r**-alpha
    assert p_of_count(int((xi.norm(dim=1) > r).sum()), expected) > 1e-5
    assert p_of_count(int((xi.norm(dim=1) > r).sum()), 3 * expected) < 1e-5


def test_isotropic_noise_in_float32_where_its_radius_squared_overflows(generator):
    xi = noise_vectors("isotropic", 0.2, 20_000, 2, generator=generator, dtype=torch.float32)
    assert torch.isfinite(xi).all()
    assert math.isinf(float(xi.square().max()))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("shared", 2.5, 2, 2), ValueError, r"alpha must be in \(0, 2\], got 2\.5"),
        (("shared", "2", 2, 2), TypeError, "alpha must be a real number"),
        (("I", 1.5, 2, 2), ValueError, "kind must be one of .*'shared'.*got 'I'"),
        (("shared", 1.5, -1, 2), ValueError, "n must be >= 0, got -1"),
        (("shared", 1.5, 2, 2.0), TypeError, r"d must be an integer, got 2\.0"),
    ],
)
def test_bad_vectors(arguments, error, message):
    with pytest.raises(error, match=message):
        noise_vectors(*arguments)


# The hook: an optimizer's step, and the vectors.


def noisy(weight, *, lr=1.0, gradient=0.0, make=torch.optim.SGD, **options):
    """Attach noise to an optimizer of one weight, whose gradient is a constant."""
    weight.grad = torch.full_like(weight, gradient)
    optimizer = make([weight], lr=lr)
    options = {"alpha": 1.5, "scale": 1.0, "seed": 4, **options}
    return optimizer, StableNoise(optimizer, [weight], **options)


def documented(kind, n, d, seed=4, dtype=torch.float32):
    """Return the vectors that a step with this seed adds."""
    generator = torch.Generator().manual_seed(seed)
    return noise_vectors(kind, 1.5, n, d, generator=generator, dtype=dtype)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_plain_one_plus_the_documented_noise(kind, make):
    weight = nn.Parameter(torch.ones(4, 3, dtype=torch.float64))
    plain = copy.deepcopy(weight)
    plain.grad = torch.full_like(plain, 2.0)
    make([plain], lr=0.25).step()
    optimizer, _ = noisy(weight, lr=0.25, gradient=2.0, make=make, scale=0.1, kind=kind)
    optimizer.step()
    xi = documented(kind, 4, 3, dtype=torch.float64)
    assert torch.allclose(weight, plain + 0.1 * 0.25 ** (1 / 1.5) * xi, rtol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", ["filter", "kernel"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_large_weights_get_the_documented_noise_too(kind, column, memory_format):
    """In several blocks, whatever lies in between: 130 filters, or 130 x 50 kernels."""
    weight = nn.Parameter(torch.zeros(130, 50, 3, 3).to(memory_format=memory_format))
    noisy(weight, kind=kind, column=column)[0].step()
    shape = (130, 450) if column == "filter" else (6500, 9)
    assert torch.equal(weight.detach().reshape(shape), documented(kind, *shape))


@pytest.mark.parametrize("column", ["filter", "kernel"])
def test_a_transposed_convolution_gets_a_vector_for_each_output(column):
    layer = nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    weights = hidden_weights(layer, exclude=())
    StableNoise(optimizer, weights, alpha=1.5, scale=1.0, kind="isotropic", column=column, seed=4)
    optimizer.step()
    xi = documented("isotropic", *((6, 6) if column == "filter" else (12, 3)))
    outputs_first = layer.weight.detach().view(2, 2, 3, 3).transpose(1, 2)
    assert torch.equal(outputs_first.reshape(xi.shape), xi)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("met_by", ["hidden_weights", "prune"])
def test_what_is_masked_stays_and_the_rest_gets_its_noise(kind, met_by):
    layer = nn.Linear(3, 4, bias=False)
    optimizer, start = torch.optim.SGD(layer.parameters(), lr=1.0), layer.weight.detach().clone()
    weights = hidden_weights(layer, exclude=()) if met_by == "hidden_weights" else [layer.weight]
    StableNoise(optimizer, weights, alpha=1.5, scale=1.0, kind=kind, seed=4)
    prune(layer, keep=0.5, layers=layer, unit="weight")
    optimizer.step()
    shown = layer.weight_mask.bool()
    assert torch.equal(layer.weight_orig[~shown], start[~shown])
    assert torch.allclose(layer.weight_orig[shown], (start + documented(kind, 4, 3))[shown])
    torch_prune.remove(layer, "weight")  # a mask that is gone hides nothing
    before = layer.weight.detach().clone()
    optimizer.step()
    assert not (layer.weight == before).any()


def test_the_padding_row_of_an_embedding_stays():
    embed = nn.Embedding(5, 4, padding_idx=1)
    start = embed.weight.detach().clone()
    optimizer = torch.optim.SGD(embed.parameters(), lr=1.0)
    weights = hidden_weights(embed, exclude=())
    StableNoise(optimizer, weights, alpha=1.5, scale=1.0, kind="independent", seed=4)
    optimizer.step()
    moved = documented("independent", 5, 4)
    moved[1] = 0
    assert torch.equal(embed.weight, start + moved)
    assert not embed.weight[1].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    weight = nn.Parameter(torch.ones(6, 4, dtype=dtype))
    noisy(weight, scale=0.01, kind="independent")[0].step()
    assert torch.equal(weight, (1 + 0.01 * documented("independent", 6, 4)).to(dtype))


def test_a_tensor_as_learning_rate():
    moved = []
    for lr in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        weight = nn.Parameter(torch.zeros(50, 4))
        noisy(weight, lr=lr, kind="isotropic")[0].step()
        moved.append(weight.detach())
    assert torch.equal(*moved)
    columns, xi = torch.zeros(50, 4), documented("independent", 50, 4)  # of an accelerator's rate
    add_block(columns, xi.clone(), None, torch.tensor(0.5))
    assert torch.equal(columns, 0.5 * xi)
    add_block(columns, torch.full_like(xi, math.inf), None, torch.tensor(0.0))
    assert torch.equal(columns, 0.5 * xi)


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_adds_up_like_k_to_the_1_over_alpha(kind):
    alpha, lr, scale, k = 1.5, 0.2, 0.3, 20
    weight = nn.Parameter(torch.zeros(20_000, 3, dtype=torch.float64))
    optimizer, noise = noisy(weight, lr=lr, alpha=alpha, scale=scale, kind=kind)
    for _ in range(k):
        optimizer.step()
    gamma = scale * (lr * k) ** (1 / alpha)
    sums = weight.detach() @ DIRECTION
    for t in (0.5, 1.0, 2.0):
        along = scale_along(kind, DIRECTION, alpha) * gamma
        assert abs(z_of_cosines(sums, t / along, stable_phi(alpha, along))) < 4
        wrong = along * k ** (1 / 2 - 1 / alpha)  # the scaling of a Gaussian
        assert abs(z_of_cosines(sums, t / along, stable_phi(alpha, wrong))) > 4
    noise.scale = 0.0
    before = weight.detach().clone()
    optimizer.step()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("lr", [0.0, 1e-5, 10.0])
def test_a_rate_whose_power_leaves_the_floats_makes_no_nan(alpha, lr, kind):
    weight = nn.Parameter(torch.ones(2000, 3))
    noisy(weight, lr=lr, alpha=alpha, kind=kind)[0].step()
    assert not weight.isnan().any()
    assert lr > 0 or torch.equal(weight, torch.ones(2000, 3))


@pytest.mark.parametrize("make", [float, torch.tensor])
@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_a_rate_that_is_none_is_named(lr, make):
    optimizer, _ = noisy(nn.Parameter(torch.zeros(2, 3)))
    optimizer.param_groups[0]["lr"] = make(lr)
    with pytest.raises(ValueError, match=r"lr must be in \[0, inf\), got"):
        optimizer.step()
    assert not optimizer.param_groups[0]["params"][0].any()  # before anything has moved


def test_a_rate_that_nobody_looks_at_makes_nan_if_it_is_none():
    class OnDevice(torch.Tensor):
        device = torch.device("cuda")

    for lr, expected in ((0.25, 0.0625), (-0.25, math.nan), (math.inf, math.nan)):
        found = _power(torch.tensor(lr).as_subclass(OnDevice), 2.0)
        assert float(found) == pytest.approx(expected, nan_ok=True)


def test_a_parameter_that_left_the_optimizer_is_named():
    optimizer, _ = noisy(nn.Parameter(torch.zeros(2, 3)), gradient=1.0)
    other = nn.Parameter(torch.zeros(4, 3))
    other.grad = torch.ones_like(other)
    optimizer.param_groups[0]["params"] = [other]
    with pytest.raises(ValueError, match=r"of shape \[\(2, 3\)\] left the optimizer"):
        optimizer.step()
    assert not other.any()


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def attached(seed=3, make=torch.optim.SGD, **options):
    model = small_net()
    optimizer = make(model.parameters(), lr=0.1)
    options = {"alpha": 1.7, "scale": 0.1, "kind": "isotropic", **options}
    noise = StableNoise(optimizer, hidden_weights(model, exclude="2"), seed=seed, **options)
    return model, optimizer, noise


def steps(model, optimizer, k):
    x = torch.linspace(-1, 1, 20).view(5, 4)
    for _ in range(k):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_seed_is_a_path_of_the_chosen_weights_and_of_no_other_generator():
    first, again, other = (attached(seed) for seed in (3, 3, 4))
    state = torch.get_rng_state()
    first, again, other = (steps(*parts[:2], 1) for parts in (first, again, other))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    plain = small_net()
    without = steps(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 1)
    assert list(map(torch.equal, first, without)) == [False, True, True, True]


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_resume_is_bit_exact(make, tmp_path):
    """Of weights, optimizer, noise and schedule, by a file; index and scale are the state's."""

    def parts(**options):
        model, optimizer, noise = attached(make=make, **options)
        cooling = LambdaNoise(noise, scale=lambda k: 1 / (1 + k))
        return {"model": model, "optimizer": optimizer, "noise": noise, "cooling": cooling}

    def run(parts, k):
        for _ in range(k):
            found = steps(parts["model"], parts["optimizer"], 1)
            parts["cooling"].step()
        return found

    whole = run(parts(), 6)
    first = parts()
    run(first, 4)
    torch.save({name: part.state_dict() for name, part in first.items()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = parts(seed=99, scale=0.7, alpha=1.1)
    for name in ("model", "optimizer", "noise", "cooling"):
        second[name].load_state_dict(state[name])
    assert all(map(torch.equal, run(second, 2), whole))


def test_a_refused_state_changes_nothing():
    _, _, noise = attached()
    good, before = attached(kind="shared")[2].state_dict(), str(noise.state_dict())
    for state, error, message in (
        (good, ValueError, "kind must be 'isotropic', got 'shared'"),
        (
            good | {"kind": "isotropic", "shapes": []},
            ValueError,
            r"shapes must be \[\[.*, got \[\]",
        ),
        ([], TypeError, "must be a dictionary"),
        ({"kind": "isotropic"}, ValueError, r"lacks \['alpha'"),
        ({**noise.state_dict(), "scale": 0.5, "seed": -1}, ValueError, "seed must be in"),
        ({**noise.state_dict(), "scale": 0.5, "generators": {"cpu": 0}}, ValueError, "generators"),
    ):
        with pytest.raises(error, match=message):
            noise.load_state_dict(state)
        assert str(noise.state_dict()) == before


def test_attaching_twice_warns_and_remove_detaches():
    model, optimizer, noise = attached()
    options = {"alpha": 1.7, "scale": 0.1, "seed": 3}
    shown = r"StableNoise\(alpha=1.7, scale=0.1, kind='isotropic', column='filter', seed=3\)"
    with pytest.warns(UserWarning, match=f"two noises on one parameter add up: there is {shown}"):
        StableNoise(optimizer, [model[0].weight], **options).remove()
    other = StableNoise(optimizer, [model[2].weight], **options)  # another parameter
    noise.remove()
    StableNoise(optimizer, [model[0].weight], **options).remove()
    other.remove()
    other.remove()  # once is enough
    plain = small_net()
    without = steps(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 2)
    assert all(map(torch.equal, steps(model, optimizer, 2), without))


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_adds_no_noise(fused):
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
    weights = hidden_weights(model, exclude="2")
    StableNoise(optimizer, weights, alpha=1.5, scale=0.1, kind="isotropic", seed=0)
    scaler = torch.amp.GradScaler("cpu")
    for gradient_is_finite in (False, True):
        before = weights[0].detach().clone()
        optimizer.zero_grad()
        loss = model(torch.ones(1, 4)).sum() * (1.0 if gradient_is_finite else math.inf)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weights[0], before) != gradient_is_finite


def replica(rank, folder):
    """Train one of two replicas, each on its own batches; save it."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    for name, seed in (("same", 3), ("other", rank)):
        model, optimizer, _ = attached(seed)
        parallel = nn.parallel.DistributedDataParallel(model)
        source = torch.Generator().manual_seed(rank)
        for _ in range(5):
            optimizer.zero_grad()
            parallel(torch.rand(3, 4, generator=source)).square().mean().backward()
            optimizer.step()
        torch.save(model.state_dict(), f"{folder}/{name}{rank}.pt")
    distributed.destroy_process_group()


def test_replicas_stay_equal_to_the_bit(tmp_path):
    """If each attaches the noise with the same seed."""
    multiprocessing.spawn(replica, (str(tmp_path),), nprocs=2)
    for name, alike in (("same", True), ("other", False)):
        one, two = (torch.load(tmp_path / f"{name}{rank}.pt") for rank in (0, 1))
        assert all(torch.equal(one[key], two[key]) for key in one) == alike


class Watch(TorchDispatchMode):
    """Refuse what would make the host wait for an accelerator."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        waits = ("_local_scalar_dense", "nonzero", "item", "equal", "masked_select", "is_nonzero")
        assert not any(word in name for word in waits), f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_with_noise_never_waits(kind):
    fused = partial(torch.optim.SGD, fused=True)
    layer = nn.Linear(30, 40)
    prune(layer, keep=0.5, layers=layer)  # with a mask
    optimizer, _ = noisy(layer.weight_orig, kind=kind, make=fused)
    optimizer.found_inf = torch.zeros(1)
    with Watch():
        optimizer.step()
    with pytest.raises(AssertionError, match="waits for the device"), Watch():
        torch.ones(1).item()


class Spread(nn.Parameter):
    """A parameter that says where torch's distributed ones are from."""

    __module__ = "torch.distributed.tensor"


WEIGHTS = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(6)), Spread(torch.ones(2, 3))]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 2.5}, ValueError, r"alpha must be in \(0, 2\], got 2\.5"),
        ({"alpha": "1.5"}, TypeError, "alpha must be a real number .* got '1.5'"),
        ({"scale": math.nan}, ValueError, r"scale must be in \[0, inf\), got nan"),
        ({"kind": "gaussian"}, ValueError, "kind must be one of"),
        ({"column": "patch"}, ValueError, "column must be one of"),
        ({"seed": 2**64}, ValueError, r"seed must be in \[0, 2\^64\)"),
        ({"params": []}, ValueError, "at least one parameter"),
        ({"params": nn.Parameter(torch.ones(2, 2))}, TypeError, "must be an iterable of param"),
        ({"params": [nn.Parameter(torch.ones(2, 2))]}, ValueError, "be in the optimizer"),
        ({"params": small_net().named_parameters()}, TypeError, "floating-point tensors, got \\("),
        ({"params": [WEIGHTS[1]]}, ValueError, r"dimension >= 2, got \(6,\)"),
        ({"params": [WEIGHTS[2]]}, TypeError, "must not be spread over devices, got a Spread"),
        ({"optimizer": "sgd"}, TypeError, r"optimizer must be a torch\.optim\.Optimizer"),
    ],
)
def test_bad_noise_attaches_nothing(options, error, message):
    good = {"params": WEIGHTS[:1], "optimizer": torch.optim.SGD(WEIGHTS, lr=0.1)}
    good |= {"alpha": 1.5, "scale": 0.1, "seed": 0}
    with pytest.raises(error, match=message):
        StableNoise(**{**good, **options})
    assert len(good["optimizer"]._optimizer_step_post_hooks) == 0
    noise = StableNoise(**good)
    for name in set(options) - {"params", "optimizer"}:
        before = getattr(noise, name)
        with pytest.raises(error, match=message):
            setattr(noise, name, options[name])
        assert getattr(noise, name) == before


# Schedules.


def test_a_schedule_sets_scale_and_index():
    _, _, noise = attached(scale=0.4)
    cooling = LambdaNoise(noise, scale=lambda k: 1 / (1 + k), alpha=lambda k: 2 - 0.5 / (1 + k))
    seen = []
    for _ in range(3):
        seen.append((noise.scale, noise.alpha))
        cooling.step()
    assert seen == [(0.4, 1.5), (0.2, 1.75), (pytest.approx(0.4 / 3), pytest.approx(11 / 6))]
    assert cooling.steps == 3


def test_a_bad_schedule_changes_nothing():
    _, _, noise = attached()
    for arguments, error, message in (
        ({"noise": 1.0, "scale": lambda k: 1.0}, TypeError, "must be a StableNoise"),
        ({}, ValueError, "at least one of scale and alpha"),
        ({"scale": 0.5}, TypeError, r"scale must be a function of the step, got 0\.5"),
        ({"scale": lambda k: 5.0, "alpha": lambda k: 3.0}, ValueError, r"alpha .*, got 3"),
    ):
        with pytest.raises(error, match=message):
            LambdaNoise(**{"noise": noise, **arguments})
    assert (noise.scale, noise.alpha) == (0.1, 1.7)
    falling = LambdaNoise(noise, scale=lambda k: 1.0 - k)
    falling.step()
    with pytest.raises(ValueError, match=r"scale must be in \[0, inf\), got -1"):
        falling.step()
    with pytest.raises(ValueError, match="scale must be in"):
        falling.load_state_dict({"steps": 7, "first_scale": 2.0})
    with pytest.raises(ValueError, match=r"lacks \['first_scale'\]"):
        falling.load_state_dict({"steps": 0})
    assert (falling.state_dict(), noise.scale) == ({"steps": 1, "first_scale": 0.1}, 0.0)
