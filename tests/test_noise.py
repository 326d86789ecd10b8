import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from heavytail import (
    LambdaNoise,
    StableNoise,
    hidden_weights,
    noise_vectors,
    positive_stable,
    tail_constant,
)
from heavytail.noise import KINDS
from tests.oracles import p_of_count, stable_phi, z_of_cosines

ALPHAS = [0.8, 1.0, 1.5, 1.75, 2.0]
DIRECTION = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64)


def scale_along(kind, u, alpha):
    """Return the scale of <u, xi>, which is S(alpha) for every kind."""
    return {
        "shared": abs(float(u.sum())),
        "independent": float((u.abs() ** alpha).sum()) ** (1 / alpha),
        "isotropic": float(u.norm()),
    }[kind]


@pytest.fixture
def layer(generator):
    """A linear layer of 20,000 columns in R^3, at zero, without gradient."""
    layer = nn.Linear(3, 20_000, bias=False, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    layer.weight.grad = torch.zeros_like(layer.weight)
    return layer


# The vectors.


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("kind", KINDS)
def test_characteristic_function(kind, alpha, generator):
    xi = noise_vectors(kind, alpha, 200_000, 3, generator=generator, dtype=torch.float64)
    for t in (0.5, 1.0, 2.0):
        phi = stable_phi(alpha, scale_along(kind, DIRECTION, alpha))
        assert abs(z_of_cosines(xi @ DIRECTION, t, phi)) < 4
        for coordinate in xi.T:
            assert abs(z_of_cosines(coordinate, t, stable_phi(alpha))) < 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_kinds_differ(kind, generator):
    xi = noise_vectors(kind, 1.5, 200_000, 3, generator=generator, dtype=torch.float64)
    for other in set(KINDS) - {kind}:
        phi = stable_phi(1.5, scale_along(other, DIRECTION, 1.5))
        assert abs(z_of_cosines(xi @ DIRECTION, 1.0, phi)) > 4


def test_isotropic_noise_needs_the_factor_2(generator):
    """sqrt(A) G instead of sqrt(2A) G is too small by sqrt(2), and is told apart."""
    A = positive_stable(0.875, (100_000, 1), generator=generator, dtype=torch.float64)
    small = A.sqrt() * torch.randn(100_000, 3, generator=generator, dtype=torch.float64)
    assert abs(z_of_cosines(small[:, 0], 1.0, stable_phi(1.75))) > 4
    assert abs(z_of_cosines(math.sqrt(2) * small[:, 0], 1.0, stable_phi(1.75))) < 4


def norm_tail_constant(kind, alpha, d):
    return {
        "shared": d ** (alpha / 2) * tail_constant(alpha),
        "independent": d * tail_constant(alpha),
        "isotropic": 2**alpha
        * math.gamma((d + alpha) / 2)
        / (math.gamma(d / 2) * math.gamma(1 - alpha / 2)),
    }[kind]


@pytest.mark.parametrize("d", [1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_tails_of_the_norms(kind, d, generator):
    n, alpha, r = 500_000, 1.3, 300.0
    xi = noise_vectors(kind, alpha, n, d, generator=generator, dtype=torch.float64)
    expected = n * norm_tail_constant(kind, alpha, d) * r**-alpha
    assert p_of_count(int((xi.norm(dim=1) > r).sum()), expected) > 1e-5
    assert p_of_count(int((xi.norm(dim=1) > r).sum()), 3 * expected) < 1e-5


def test_shared_noise_is_shared_and_writable(generator):
    xi = noise_vectors("shared", 1.5, 5, 3, generator=generator)
    assert torch.equal(xi, xi[:, :1].repeat(1, 3))
    xi[0, 0] += 1
    assert xi[0, 0] != xi[0, 1]


def test_isotropic_noise_in_float32_where_its_radius_squared_overflows(generator):
    xi = noise_vectors("isotropic", 0.2, 20_000, 2, generator=generator, dtype=torch.float32)
    assert torch.isfinite(xi).all()
    assert math.isinf(float(xi.square().max()))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("shared", 0, 2, 2), ValueError, r"alpha must be in \(0, 2\], got 0"),
        (("shared", 2.5, 2, 2), ValueError, r"alpha must be in \(0, 2\], got 2\.5"),
        (("shared", math.nan, 2, 2), ValueError, r"alpha must be in \(0, 2\], got nan"),
        (("shared", "2", 2, 2), TypeError, "alpha must be a real number"),
        (("I", 1.5, 2, 2), ValueError, "kind must be one of .*'shared'.*got 'I'"),
        ((1, 1.5, 2, 2), TypeError, "kind must be one of"),
        (("shared", 1.5, -1, 2), ValueError, "n must be >= 0, got -1"),
        (("shared", 1.5, 2, 2.0), TypeError, r"d must be an integer, got 2\.0"),
    ],
)
def test_bad_vectors(arguments, error, message):
    with pytest.raises(error, match=message):
        noise_vectors(*arguments)


# The hook.


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_is_the_step_plus_the_documented_noise(kind):
    weight = nn.Parameter(torch.ones(4, 3, dtype=torch.float64))
    weight.grad = torch.full_like(weight, 2.0)
    optimizer = torch.optim.SGD([weight], lr=0.25)
    StableNoise(optimizer, [weight], alpha=1.5, scale=0.1, kind=kind, seed=11)
    optimizer.step()
    seeded = torch.Generator().manual_seed(11)
    xi = noise_vectors(kind, 1.5, 4, 3, generator=seeded, dtype=torch.float64)
    expected = 1 - 0.25 * 2.0 + 0.1 * 0.25 ** (1 / 1.5) * xi
    assert torch.allclose(weight.detach(), expected, rtol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_adds_up_like_k_to_the_1_over_alpha(kind, layer):
    alpha, lr, scale, k = 1.5, 0.2, 0.3, 20
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
    StableNoise(optimizer, [layer.weight], alpha=alpha, scale=scale, kind=kind, seed=1)
    for _ in range(k):
        optimizer.step()
    gamma = scale * (lr * k) ** (1 / alpha)
    sums = layer.weight.detach() @ DIRECTION
    for t in (0.5, 1.0, 2.0):
        along = scale_along(kind, DIRECTION, alpha) * gamma
        assert abs(z_of_cosines(sums, t / along, stable_phi(alpha, along))) < 4
        wrong = along * k ** (1 / 2 - 1 / alpha)  # the scaling of a Gaussian
        assert abs(z_of_cosines(sums, t / along, stable_phi(alpha, wrong))) > 4


def test_lr_scale_and_alpha_may_change_between_steps(layer):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    noise = StableNoise(optimizer, [layer.weight], alpha=1.5, scale=0.3, seed=1)
    total = 0.0
    for k in range(1, 11):
        noise.scale = 0.3 / k
        optimizer.param_groups[0]["lr"] = 0.1 * k
        optimizer.step()
        total += (0.3 / k) ** 1.5 * 0.1 * k
    gamma = total ** (1 / 1.5)
    sums = layer.weight.detach()[:, 0]
    assert abs(z_of_cosines(sums, 1 / gamma, stable_phi(1.5, gamma))) < 4
    noise.alpha = 2.0
    noise.scale = 0.0
    before = layer.weight.detach().clone()
    optimizer.step()
    assert torch.equal(layer.weight, before)


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def steps(model, optimizer, k):
    x = torch.linspace(-1, 1, 20).view(5, 4)
    for _ in range(k):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def attached(seed=3, make=torch.optim.SGD, **options):
    model = small_net()
    optimizer = make(model.parameters(), lr=0.1)
    options = {"alpha": 1.7, "scale": 0.1, "kind": "isotropic", **options}
    noise = StableNoise(optimizer, hidden_weights(model, exclude="2"), seed=seed, **options)
    return model, optimizer, noise


def test_same_seed_same_path():
    first, again, other = (steps(*attached(seed)[:2], 5) for seed in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("lr", [0.0, 1e-5, 10.0])
def test_a_rate_whose_power_leaves_the_floats_makes_no_nan(alpha, lr):
    weight = nn.Parameter(torch.ones(2000, 3))
    optimizer = torch.optim.SGD([weight], lr=lr)
    StableNoise(optimizer, [weight], alpha=alpha, scale=0.1, seed=0)
    optimizer.step()
    assert not weight.isnan().any()
    if lr == 0:
        assert torch.equal(weight, torch.ones(2000, 3))


def test_only_the_chosen_weights_get_noise():
    model, optimizer, _ = attached()
    plain = small_net()
    after = steps(model, optimizer, 1)
    without = steps(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 1)
    assert [torch.equal(a, b) for a, b in zip(after, without, strict=True)] == [
        False,
        True,
        True,
        True,
    ]


def test_the_global_generator_is_not_touched():
    model, optimizer, _ = attached()
    state = torch.get_rng_state()
    steps(model, optimizer, 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_resume_is_bit_exact(make, tmp_path):
    whole = steps(*attached(make=make)[:2], 6)
    model, optimizer, noise = attached(make=make)
    steps(model, optimizer, 4)
    saved = {"model": model, "optimizer": optimizer, "noise": noise}
    torch.save({name: part.state_dict() for name, part in saved.items()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    model, optimizer, noise = attached(seed=99, make=make, scale=0.7, alpha=1.1)
    for name, part in {"model": model, "optimizer": optimizer, "noise": noise}.items():
        part.load_state_dict(state[name])
    assert all(map(torch.equal, steps(model, optimizer, 2), whole))


LONG_RUN = """
import os, sys, torch
from heavytail import LambdaNoise, StableNoise

folder, total = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
model = torch.nn.Linear(4, 300, bias=False)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
noise = StableNoise(optimizer, [model.weight], alpha=1.7, scale=0.1, kind="independent", seed=3)
schedule = LambdaNoise(noise, scale=lambda k: 1 / (1 + k))
parts = {"model": model, "optimizer": optimizer, "noise": noise, "schedule": schedule}
if os.path.exists(f"{folder}/state.pt"):
    saved = torch.load(f"{folder}/state.pt", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
x = torch.linspace(-1, 1, 20).view(5, 4)
while schedule.steps < total:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    schedule.step()
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state, f"{folder}/draft.pt")
    os.replace(f"{folder}/draft.pt", f"{folder}/state.pt")
    print(schedule.steps, flush=True)
"""


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
    """Killed at whatever step it has reached, in another process the run ends as if it had not."""
    command = [sys.executable, "-W", "ignore", "-c", LONG_RUN]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    victim = subprocess.Popen(
        [*command, tmp_path / "killed", "1000000"], stdout=subprocess.PIPE, text=True
    )
    assert victim.stdout is not None
    while int(victim.stdout.readline()) < 20:
        pass
    victim.kill()
    victim.wait()
    victim.stdout.close()
    reached = torch.load(tmp_path / "killed" / "state.pt")["schedule"]["steps"]
    for name in ("whole", "killed"):
        arguments = [*command, tmp_path / name, str(reached + 20)]
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    whole, killed = (torch.load(tmp_path / name / "state.pt") for name in ("whole", "killed"))
    assert torch.equal(whole["model"]["weight"], killed["model"]["weight"])
    assert str(whole["optimizer"]) == str(killed["optimizer"])


def test_a_state_of_another_kind_is_refused():
    _, _, noise = attached()
    state = noise.state_dict()
    _, _, other = attached(kind="shared")
    with pytest.raises(ValueError, match="kind must be 'shared', the state's is 'isotropic'"):
        other.load_state_dict(state)
    with pytest.raises(TypeError, match="must be a dictionary"):
        noise.load_state_dict([])
    with pytest.raises(ValueError, match=r"lacks .*'alpha'"):
        noise.load_state_dict({key: value for key, value in state.items() if key != "alpha"})


def test_remove_leaves_the_optimizer_as_it_was():
    model, optimizer, noise = attached()
    noise.remove()
    noise.remove()
    plain = small_net()
    after = steps(model, optimizer, 2)
    assert all(map(torch.equal, after, steps(plain, torch.optim.SGD(plain.parameters(), 0.1), 2)))


def test_no_step_no_noise():
    model, optimizer, _ = attached()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.ones(1, 4)).sum().backward()  # gradients are accumulated, no step is taken
    assert all(map(torch.equal, model.parameters(), before))
    assert optimizer.state_dict()["state"] == {}


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


def test_a_filter_is_a_column():
    conv = nn.Conv2d(3, 5, 2, bias=False)
    nn.init.zeros_(conv.weight)
    conv.weight.grad = torch.zeros_like(conv.weight)
    optimizer = torch.optim.SGD(conv.parameters(), lr=1.0)
    StableNoise(optimizer, hidden_weights(conv, exclude=()), alpha=1.5, scale=1.0, seed=0)
    optimizer.step()
    columns = conv.weight.detach().flatten(1)
    assert torch.equal(columns, columns[:, :1].expand(5, 12))
    assert len(set(columns[:, 0].tolist())) == 5


def test_a_kernel_is_a_column_if_asked():
    conv = nn.Conv2d(3, 5, 2, bias=False).to(memory_format=torch.channels_last)
    nn.init.zeros_(conv.weight)
    conv.weight.grad = torch.zeros_like(conv.weight)
    optimizer = torch.optim.SGD(conv.parameters(), lr=1.0)
    StableNoise(optimizer, [conv.weight], alpha=1.5, scale=1.0, column="kernel", seed=0)
    optimizer.step()
    kernels = conv.weight.detach().reshape(15, 4)
    assert torch.equal(kernels, kernels[:, :1].expand(15, 4))
    assert len(set(kernels[:, 0].tolist())) == 15
    xi = noise_vectors("shared", 1.5, 15, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(kernels, xi)


@pytest.mark.parametrize("kind", KINDS)
def test_large_weights_get_the_documented_noise_too(kind):
    """They take several blocks."""
    weight = nn.Parameter(torch.zeros(130, 50, 3, 3))
    weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    StableNoise(optimizer, [weight], alpha=1.5, scale=1.0, kind=kind, seed=4)
    optimizer.step()
    xi = noise_vectors(kind, 1.5, 130, 450, generator=torch.Generator().manual_seed(4))
    assert torch.equal(weight.detach().flatten(1), xi)


@pytest.mark.parametrize("kind", KINDS)
def test_the_law_of_kernels(kind):
    weight = nn.Parameter(torch.zeros(2000, 50, 3))
    weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    StableNoise(optimizer, [weight], alpha=1.5, scale=1.0, kind=kind, column="kernel", seed=4)
    optimizer.step()
    sums = weight.detach().view(-1, 3).double() @ DIRECTION
    along = scale_along(kind, DIRECTION, 1.5)
    for t in (0.5, 1.0, 2.0):
        assert abs(z_of_cosines(sums, t / along, stable_phi(1.5, along))) < 4


def test_a_tensor_as_learning_rate():
    first, second = (
        steps(*attached(make=lambda p, lr, as_=as_: torch.optim.Adam(p, lr=as_(lr)))[:2], 3)
        for as_ in (float, torch.tensor)
    )
    for a, b in zip(first, second, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


def test_gradient_clipping_momentum_and_a_compiled_model_take_the_noise_as_it_is():
    """The noise of a run is the same whatever made the step."""
    moved = []
    for momentum, clipped, backend in ((0.0, False, None), (0.9, True, "eager")):
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
        weights = hidden_weights(model, exclude="2")
        StableNoise(optimizer, weights, alpha=1.5, scale=0.1, seed=5)
        run = torch.compile(model, backend=backend) if backend else model
        run(torch.ones(3, 4)).square().mean().backward()
        if clipped:
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        before = weights[0].detach().clone()
        gradient = weights[0].grad.clone()
        optimizer.step()
        moved.append(weights[0].detach() - before + 0.1 * gradient)
    assert torch.allclose(*moved, rtol=1e-4, atol=1e-6)


class Watch(TorchDispatchMode):
    """Count what an accelerator would run, and refuse what would make the host wait."""

    def __init__(self):
        super().__init__()
        self.kernels = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        waits = ("_local_scalar_dense", "nonzero", "item", "equal", "masked_select", "is_nonzero")
        assert not any(word in name for word in waits), f"{name} waits for the device"
        out = function(*args, **(kwargs or {}))
        schema = function._schema
        only_a_view = any(r.alias_info and not r.alias_info.is_write for r in schema.returns)
        if not only_a_view and "empty" not in name:
            self.kernels += 1
        return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_with_noise_never_waits_and_is_few_kernels(kind, fused):
    weights = [nn.Parameter(torch.zeros(40, 30)) for _ in range(3)]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.SGD(weights, lr=0.1, fused=fused)
    StableNoise(optimizer, weights, alpha=1.75, scale=0.1, kind=kind, seed=0)
    plain = torch.optim.SGD(weights, lr=0.1, fused=fused)
    if fused:
        optimizer.found_inf = torch.zeros(1)
    with Watch() as alone:
        plain.step()
    with Watch() as noisy:
        optimizer.step()
    assert noisy.kernels - alone.kernels <= 3 * (30 + 2 * fused)


def test_the_watch_sees_a_wait():
    with pytest.raises(AssertionError, match="waits for the device"), Watch():
        torch.ones(1).item()


REPLICA = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from heavytail import StableNoise

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(rank)  # the replicas' own randomness differs
model = nn.parallel.DistributedDataParallel(nn.Linear(8, 6, bias=False))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
StableNoise(optimizer, [model.module.weight], alpha=1.5, scale=0.1, kind="independent", seed=1)
for _ in range(5):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
torch.save(model.module.weight.detach(), f"{folder}/{rank}.pt")
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

mesh = init_device_mesh("cpu", (2,))
spread = nn.Parameter(distribute_tensor(torch.zeros(4, 4), mesh, [Shard(0)]))
try:
    StableNoise(torch.optim.SGD([spread], lr=0.1), [spread], alpha=1.5, scale=0.1, seed=1)
except TypeError as refusal:
    assert "spread over devices" in str(refusal)
else:
    raise AssertionError("a spread parameter was taken")
dist.destroy_process_group()
"""


def test_replicas_stay_equal_to_the_bit_and_spread_parameters_are_refused(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", REPLICA]
    runs = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    assert first.abs().max() > 0


# Schedules.


def test_a_schedule_sets_scale_and_index():
    _, _, noise = attached(scale=0.4)
    cooling = LambdaNoise(noise, scale=lambda k: 1 / (1 + k), alpha=lambda k: 2 - 0.5 / (1 + k))
    seen = []
    for _ in range(3):
        seen.append((noise.scale, noise.alpha))
        cooling.step()
    assert seen == [(0.4, 1.5), (0.2, 1.75), (pytest.approx(0.4 / 3), pytest.approx(11 / 6))]
    state = cooling.state_dict()
    _, _, other = attached(scale=7.0)
    resumed = LambdaNoise(other, scale=lambda k: 1 / (1 + k))
    resumed.load_state_dict(state)
    assert resumed.steps == 3
    assert other.scale == pytest.approx(0.1)
    assert other.alpha == 1.7


def test_bad_schedules():
    _, _, noise = attached()
    with pytest.raises(TypeError, match="must be a StableNoise"):
        LambdaNoise(1.0, scale=lambda k: 1.0)
    with pytest.raises(ValueError, match="at least one of scale and alpha"):
        LambdaNoise(noise)
    with pytest.raises(TypeError, match=r"scale must be a function of the step, got 0\.5"):
        LambdaNoise(noise, scale=0.5)
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 2\], got 3"):
        LambdaNoise(noise, alpha=lambda k: 3.0)
    with pytest.raises(ValueError, match=r"lacks .*'first_scale'"):
        LambdaNoise(noise, alpha=lambda k: 1.0).load_state_dict({"steps": 1})


def test_half_precision_is_rounded_once():
    weight = nn.Parameter(torch.ones(6, 4, dtype=torch.bfloat16))
    weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    StableNoise(optimizer, [weight], alpha=1.5, scale=0.01, kind="independent", seed=2)
    optimizer.step()
    seeded = torch.Generator().manual_seed(2)
    xi = noise_vectors("independent", 1.5, 6, 4, generator=seeded, dtype=torch.float32)
    assert torch.equal(weight.detach(), (1 + 0.01 * xi).bfloat16())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 0}, ValueError, r"alpha must be in \(0, 2\], got 0"),
        ({"alpha": 2.5}, ValueError, r"alpha must be in \(0, 2\], got 2\.5"),
        ({"alpha": math.nan}, ValueError, "alpha must be .* got nan"),
        ({"alpha": "1.5"}, TypeError, "alpha must be a real number .* got '1.5'"),
        ({"scale": -1.0}, ValueError, "scale must be >= 0, got -1"),
        ({"scale": math.nan}, ValueError, "scale must be finite, got nan"),
        ({"kind": "gaussian"}, ValueError, "kind must be one of"),
        ({"column": "patch"}, ValueError, "column must be one of"),
        ({"seed": -1}, ValueError, "seed must be >= 0"),
        ({"seed": 2**64}, ValueError, r"seed must be in \[0, 2\^64\)"),
        ({"seed": None}, TypeError, "seed must be an integer"),
    ],
)
def test_bad_noise_attaches_nothing(options, error, message):
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    good = {"alpha": 1.5, "scale": 0.1, "seed": 0}
    with pytest.raises(error, match=message):
        StableNoise(optimizer, hidden_weights(model, exclude="2"), **{**good, **options})
    assert len(optimizer._optimizer_step_post_hooks) == 0
    noise = StableNoise(optimizer, hidden_weights(model, exclude="2"), **good)
    for name in set(options) & {"alpha", "scale"}:
        with pytest.raises(error, match=message):
            setattr(noise, name, options[name])
        assert getattr(noise, name) == good[name]


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([], ValueError, "at least one parameter"),
        (nn.Parameter(torch.ones(2, 2)), TypeError, "must be an iterable of parameters"),
        ([nn.Parameter(torch.ones(2, 2))], ValueError, "not in the optimizer"),
        (None, TypeError, "must be an iterable of parameters"),
        (small_net().named_parameters(), TypeError, "must hold floating-point tensors, got \\("),
        ("bias", ValueError, "dimension >= 2"),
    ],
)
def test_bad_params(params, error, message):
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(error, match=message):
        StableNoise(
            optimizer,
            [model[0].bias] if params == "bias" else params,
            alpha=1.5,
            scale=0.1,
            seed=0,
        )


def test_an_optimizer_is_needed():
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer"):
        StableNoise("sgd", [], alpha=1.5, scale=0.1, seed=0)


# Which weights.


class Headed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 2)


def test_hidden_weights_are_all_but_the_head():
    model = Headed()
    found = hidden_weights(model)
    assert [id(weight) for weight in found] == [id(model.body[0].weight), id(model.body[2].weight)]
    # A hidden layer with as many units as there are classes is a hidden layer.
    assert len(hidden_weights(model, exclude=())) == 3
    assert len(hidden_weights(model, exclude=[model.body[0], "head"])) == 1
    assert len(hidden_weights(model, exclude="body")) == 1


def test_a_shared_weight_is_listed_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert len(hidden_weights(model, exclude=())) == 1


def test_a_weight_shared_with_the_head_gets_no_noise():
    model = nn.Module()
    model.embed, model.body, model.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7)
    model.head.weight = model.embed.weight
    assert [id(weight) for weight in hidden_weights(model)] == [id(model.body.weight)]
    del model.body
    with pytest.raises(ValueError, match="shared with a layer left out"):
        hidden_weights(model)


def test_a_head_without_weights_is_no_head():
    model = Headed()
    model.head = nn.Identity()
    with pytest.raises(ValueError, match="no last layer named 'head'"):
        hidden_weights(model)


@pytest.mark.parametrize(
    ("model", "exclude", "error", "message"),
    [
        (small_net(), None, ValueError, r"no last layer named 'head'.*0 \(Linear\), 2 \(Linear\)"),
        (nn.Sequential(), None, ValueError, "no weight of dimension >= 2"),
        (nn.BatchNorm1d(3), (), ValueError, "no weight of dimension >= 2"),
        (Headed(), "hed", ValueError, r"no layer 'hed' in the model: .*head \(Linear\)"),
        (Headed(), [nn.Linear(2, 2)], ValueError, "not in the model"),
        (Headed(), ["body", "head"], ValueError, "nothing is left"),
        (Headed(), [3], TypeError, "a layer is a module or its name, got 3"),
        (Headed(), 3, TypeError, "layers are modules or their names, got 3"),
        ("model", None, TypeError, "model must be a torch.nn.Module"),
    ],
)
def test_bad_layers(model, exclude, error, message):
    with pytest.raises(error, match=message):
        hidden_weights(model, exclude=exclude)
