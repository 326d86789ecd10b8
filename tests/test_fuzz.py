"""Every public function, given bad values of every sort, answers or refuses, and soon.

An answer holds no nan that is not documented. A refusal is a TypeError or ValueError that names the
argument, or an exception that the docstring names. It leaves the arguments, files, and torch's and
numpy's settings and generators as they were.
"""

import inspect
import math
import random
import re
import resource
import signal
import sys
import warnings
from contextlib import chdir, contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from traceback import walk_tb
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pooch
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import heavytail as ht
from heavytail import fokker_planck
from heavytail.compression import prediction
from heavytail.experiments import data, models, records, results, runs, sweep, together, train
from heavytail.limit.rates import STATISTICS

# Examples a function, in the suite and of the long version; seconds and bytes for one.
SHORT, LONG, SECONDS, MEMORY = 40, 2000, 20.0, 4 << 30


def G():  # noqa: N802
    return torch.Generator().manual_seed(0)


def X(*shape, dtype=torch.float64):  # noqa: N802
    return torch.randn(shape, generator=G(), dtype=dtype)


def net(masked=False):
    model = models.FullyConnected(2, 3, width=4, generator=G())
    if masked:
        ht.prune(model, keep=0.5)
    return model


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def noise(model):
    """Return a noise that has drawn, and so has a generator."""
    optimizer, weights = sgd(model), [model.body[0].weight]
    found = ht.StableNoise(optimizer, weights, alpha=1.5, scale=0.1, seed=0)
    optimizer.step()
    return found


def schedule(last=1.8):
    return ht.LambdaNoise(noise(net()), alpha=lambda k: last if k else 1.5)


def store():
    found = records.Store("runs.json")
    found.write(CONFIG, {"result": {"steps": 1}})
    return found


def run(config, checkpoint):
    return {"seed": config.seed}


PROBLEM = ht.MeanField(X(4, 2), X(4), signs="alternating")
SINE = ht.MeanField(X(4, 2), X(4), h=lambda x, theta: x.sum() * theta.sum().sin())
S0, S1 = (ht.Stable(X(2).sigmoid() + 0.5, 0.5, 0.1, 2.0, form) for form in ("S0", "S1"))
COLUMNS, ERROR = ht.ColumnLaw(1.5, 0.4, 0.0), ht.pruning_error_law(1.5, 0.2, 100.0)
RATES = ht.Rates(torch.tensor([2.0, 4.0, 8.0]), X(3, 3).exp(), torch.tensor([2.0, 4.0, 8.0]))
DENSITY = fokker_planck.Density.start(6.0, points=32)
EXAMPLES = X(6, 2, dtype=torch.float32), torch.arange(6) % 3
TASK = data.Dataset("toy", *EXAMPLES, *EXAMPLES, 3)
CONFIG, ANOTHER = (results.Config(data="digits", width=9, steps=2, seed=seed) for seed in (0, 1))
PLACE: Any = {"device": "cpu", "dtype": torch.float64}
LAW: Any = {"alpha": 1.5, "kind": "isotropic"}
NOISE: Any = {"scale": 0.1, **LAW}
NOISY = results.Config(data="digits", width=9, steps=2, **NOISE)
EULER: Any = {"T": 0.5, "sigma": 0.1, **LAW, **PLACE}
PLAN: Any = {"lr": 0.1, "steps": 3, "error": 0.3, "weight_decay": 0.1, "column": "filter"}
PLAN |= {"draws": 5}
TRAINED: Any = {"steps": 2, "batch_size": 3, "progress": False}
GAP: Any = {"n": 10, "T": 1.0, "alpha": 1.5, "sigma": 0.1, "curvature": 1.0}
SCORED: Any = {"x": TASK.x_test, "y": TASK.y_test, "batch_size": 4}

# fmt: off
# Good calls, made anew each time in an empty folder, and cheap.
CALLS = [
    lambda: partial(ht.ColumnLaw, alpha=1.5, tail=0.4, light=0.1, norms=X(9).exp(), scale=1.0),
    lambda: partial(ht.ColumnLaw.noisy, **NOISE, start=X(5, 3), samples=1000, generator=G()),
    lambda: partial(ht.ColumnLaw.of, columns=X(1000, 2), alpha=1.5, tail=0.4),
    lambda: partial(ht.ColumnLaw.stable, alpha=1.5, scale=1.0),
    lambda: partial(COLUMNS.dropped, keep=0.3),
    lambda: partial(ht.LambdaNoise, noise=noise(net()), scale=lambda k: 0.5, alpha=lambda k: 1.8),
    lambda: partial(schedule().load_state_dict, state=schedule().state_dict()),
    lambda: partial(schedule().state_dict),
    lambda: partial(schedule().step),
    lambda: partial(schedule(math.nan).step),
    lambda: partial(schedule(None).step),
    lambda: partial(ht.MeanField, x=X(4, 2), y=X(4).sign(), h="tanh", loss="squared", start=X(2),
                    signs=X(8)),
    lambda: partial(PROBLEM.drift, theta=X(5, 2)),
    lambda: partial(SINE.drift, theta=X(5, 2)),
    lambda: partial(PROBLEM.predict, theta=X(3, 5, 2)),
    lambda: partial(ht.Prediction(torch.linspace(0, 1, 5).double(), 0.1).quantile, p=0.5),
    lambda: partial(ERROR.cdf, error=X(3).sigmoid()),
    lambda: partial(ERROR.quantile, p=X(3).sigmoid()),
    lambda: partial(ht.Rates, x=X(3).exp(), errors=X(3, 3).exp(), size=X(3).exp(), sup=RATES,
                    statistic="mean"),
    lambda: partial(RATES.between, low=1.0, high=5.0),
    lambda: partial(ht.Stable, alpha=X(2).sigmoid(), beta=0.5, loc=X(2), scale=2.0,
                    parameterization="S1", validate_args=None),
    lambda: partial(S1.cdf, value=X(3, 2)),
    lambda: partial(S1.expand, batch_shape=(3, 2)),
    lambda: partial(S1.icdf, value=X(2).sigmoid()),
    lambda: partial(S0.log_prob, value=X(3, 2)),
    lambda: partial(S1.rsample, sample_shape=(3,)),
    lambda: partial(S0.sf, value=X(2)),
    lambda: partial(ht.StableNoise, optimizer=sgd(m := net()), params=[m.body[0].weight], **NOISE,
                    column="filter", seed=0),
    lambda: partial(noise(net()).__setattr__, "alpha", value=1.2),
    lambda: partial(noise(net()).__setattr__, "scale", value=0.2),
    lambda: partial(noise(net()).__setattr__, "seed", value=1),
    lambda: partial(noise(net()).load_state_dict, state=noise(net()).state_dict()),
    lambda: partial(noise(net()).state_dict),
    lambda: partial(noise(net()).remove),
    lambda: partial(ht.certificate, weight=X(5, 3), columns=COLUMNS, keep=0.5, error=None),
    lambda: partial(ht.chaos_error, problem=PROBLEM, widths=[2, 4], steps=2, seeds=2, **EULER,
                    reference=8, statistic="mean", coupled=True, tracers=3),
    lambda: partial(ht.column_norms, weight=X(4, 3)),
    lambda: partial(ht.compact, model=net(masked=True), multiple_of=1, inputs=X(5, 2).float()),
    lambda: partial(ht.compression_bound, training_error=0.1, columns=9, kept=3, inputs=4, bits=8,
                    outputs=2, examples=50, scale_bits=32, delta=0.05),
    lambda: partial(ht.euler_error, problem=PROBLEM, n=3, steps=[2, 4], seeds=[0, 1], **EULER,
                    reference=8, statistic="median"),
    lambda: partial(ht.hidden_weights, model=net(), exclude="head"),
    lambda: partial(ht.hill, x=X(9), k=3),
    lambda: partial(ht.hill_curve, x=X(9), ks=[1, 3, 5]),
    lambda: partial(ht.kept_columns, weight=X(5, 3), keep=None, error=0.5),
    lambda: partial(ht.linear_gap_scale, **GAP, steps=3),
    lambda: partial(ht.linear_gap_scale, **GAP, steps=None),
    lambda: partial(ht.log_moment, x=X(60), block=4),
    lambda: partial(ht.noise_tail_constant, **LAW, d=3),
    lambda: partial(ht.noise_vectors, **LAW, n=2, d=3, generator=G(), **PLACE),
    lambda: partial(ht.plan_scale, model=net(), **LAW, **PLAN, ratio=0.2, exclude="head",
                    generator=G()),
    lambda: partial(ht.positive_stable, alpha=0.7, size=(2, 3), generator=G(), **PLACE),
    lambda: partial(ht.predict_pruning, model=net(), **NOISE, **PLAN, exclude=None, generator=G()),
    lambda: partial(ht.predict_pruning, model=X(5, 2, 3), **NOISE, **PLAN | {"lr": [0.1, 0.2, 0.1]},
                    exclude=None, generator=G()),
    lambda: partial(ht.prune, model=net(), keep=0.5, error=None, layers=["body.0"], unit="column",
                    scope="layer", score="norm"),
    lambda: partial(ht.refit, model=net(masked=True), inputs=X(9, 2).float(), ridge=1e-3),
    lambda: partial(ht.function_error, model=net(), pruned=net(), inputs=X(9, 2).float()),
    lambda: partial(ht.pruning_error_law, alpha=1.5, keep=0.2, n=100.0, columns=None),
    lambda: partial(ht.quantize, weight=X(4, 3), bits=4),
    lambda: partial(ht.relative_error, weight=X(5, 3), kept=torch.tensor([0, 2])),
    lambda: partial(ht.required_width, alpha=1.5, keep=0.2, error=0.1, delta=0.1, columns=COLUMNS,
                    log10=True),
    lambda: partial(ht.simulate, problem=PROBLEM, n=3, steps=2, seed=0, systems=2, **EULER,
                    observe=torch.clone, times=[0.0, 0.5]),
    lambda: partial(ht.stable, alpha=X(2).sigmoid(), beta=0.5, size=(3, 2), loc=0.1, scale=2.0,
                    parameterization="S0", generator=G(), **PLACE),
    lambda: partial(ht.stable_mle, x=ht.symmetric_stable(1.5, 200, generator=G())),
    lambda: partial(ht.symmetric_stable, alpha=1.5, size=(2, 3), scale=X(3).exp(), generator=G(),
                    **PLACE),
    lambda: partial(ht.tail_constant, alpha=1.5),
    lambda: partial(fokker_planck.Density, **vars(DENSITY)),
    lambda: partial(DENSITY.beyond, x=2.0),
    lambda: partial(DENSITY.cdf, x=X(3)),
    lambda: partial(DENSITY.probability, edges=X(3)),
    lambda: partial(fokker_planck.Density.start, box=6.0, mean=0.1, std=1.0, points=32,
                    device="cpu"),
    lambda: partial(fokker_planck.box_for, alpha=1.5, sigma=0.5, T=1.0, reach=2.0, tolerance=0.1,
                    std=1.0),
    lambda: partial(fokker_planck.evolve, start=DENSITY, drift=lambda theta, rho, dx: -theta,
                    alpha=1.5, sigma=0.5, T=0.1, steps=2),
    lambda: partial(fokker_planck.image_error, alpha=1.5, x=1.0, box=4.0),
    lambda: partial(fokker_planck.mean_field_drift, h=torch.mul, dh=torch.mul, dloss=torch.sub,
                    x=X(4, 1), y=X(4)),
    lambda: partial(prediction.accumulated_scale, alpha=1.5, scale=[0.1, 0.2], lr=X(2).sigmoid(),
                    steps=2, weight_decay=0.1),
    lambda: partial(data.Dataset, **vars(TASK)),
    lambda: partial(data.load, name="digits", root="data"),
    lambda: partial(data.load, name="ecg5000", root="data"),
    lambda: partial(models.FullyConnected, inputs=3, outputs=2, width=4, hidden_layers=1,
                    scaling="standard", generator=G(), **PLACE),
    lambda: partial(models.VGG11, outputs=2, channels=3, width=0.01, generator=G(), **PLACE),
    lambda: partial(models.mean_field, model=net()),
    lambda: partial(records.Store, path="runs.json"),
    lambda: partial(store().checkpoint, config=CONFIG),
    lambda: partial(store().find, configs=[CONFIG, ANOTHER]),
    lambda: partial(store().forget, config=CONFIG),
    lambda: partial(store().held),
    lambda: partial(store().write, config=ANOTHER, entry={"result": {"steps": 2}}, order=["0"]),
    lambda: partial(records.key, config=CONFIG),
    lambda: partial(records.plain, value={"a": [1.0, X(2)]}, digits=3),
    lambda: partial(records.read, path="runs.json", decode=dict),
    lambda: partial(results.Config, **vars(CONFIG) | NOISE),
    lambda: partial(runs.replay, config=NOISY, start=net(), steps=3),
    lambda: partial(runs.run, config=NOISY, checkpoint=Path("state"), device="cpu"),
    lambda: partial(sweep.sweep, run=run, configs=[CONFIG, ANOTHER], store=store(),
                    executor=None, processes=0, progress=False),
    lambda: partial(together.train_together, models=[net(), net()], data=TASK, lr=0.1,
                    seeds=[0, 1], noises=[None, together.Noise(**NOISE, seed=0)], **TRAINED),
    lambda: partial(train.accuracy, model=net(), **SCORED),
    lambda: partial(train.score, model=net(), **SCORED),
    lambda: partial(train.spawn_seeds, seed=0, n=3),
    lambda: partial(train.train, model=(m := net()), optimizer=sgd(m), data=TASK, **TRAINED,
                    seed=0, stop_accuracy=1.0, evaluate_every=1, checkpoint="state",
                    checkpoint_every=1, resumable={"noise": noise(m)}),
]
# Good calls that a refusal answers, by what they were given before.
REFUSED = {"LambdaNoise.step": ["alpha"], "load": ["ecg5000"]}

# Where an answer may hold nan, and why.
NAN = {
    "stable_mle": {"stderr", "scale_stderr"},  # the maximum is at an end of the range
    "hill": {"scale", "scale_stderr"},  # there is no scale
    "log_moment": {"scale", "scale_stderr"},
    "certificate": {"level"},  # all columns are kept, or none
    "Stable": {"mean"},  # alpha <= 1
    "Stable.expand": {"mean"},
    "Stable.icdf": {"icdf"},  # the iteration fails
    "Stable.cdf": {"cdf"},  # of nan
    "Stable.sf": {"sf"},
    "Stable.log_prob": {"log_prob"},
    "MeanField.drift": {"drift"},  # of particles that have left the floats
    "MeanField.predict": {"predict"},
    "simulate": {"particles", "observed"},  # particles that leave the floats
    "column_norms": {"column_norms"},  # of a column that holds nan
    "hidden_weights": {"hidden_weights"},  # those of the model
    "compact": {"compact"},  # a copy of a model, with the nan that it had
    "mean_field": {"mean_field"},
    "function_error": {"bound", "certain"},  # none is proved of these networks
    "replay": {"replay"},
}

# What is made by others, and takes what it is given.
ANSWERS = {"Certificate", "FunctionReport", "HillCurve", "LayerReport", "Prediction", "PruneReport"}
ANSWERS |= {"PruningErrorLaw", "TailEstimate", "Trajectory"}

# Names that say of what a message may speak, where it is no argument.
SPEAKS_OF = {
    "StableNoise.__setattr__": ["alpha", "scale", "seed"],
    "MeanField.drift": ["h", "loss"],  # which are called
    "chaos_error": ["an error has no logarithm"],
    "euler_error": ["an error has no logarithm"],
}

# What takes the place of an argument: of any; of one of a type; of one of a name.
NUMBERS: Any = [math.nan, math.inf, -math.inf, -1, 0, 1, 2, 7, 0.5, 1e308, -1e308, 1e-308, 5e-324]
NUMBERS += [10**30, -(10**30), 10**400, True, 1j, np.float32(0.5), np.float64("nan"), np.int64(3)]
THINGS: Any = [None, "?!", "", b"?!", [], (), {}, {"?!": 1}, object(), float, np.ones(2), "cpu"]
MAKERS: Any = [lambda: torch.tensor(0.5), lambda: torch.ones(0), lambda: torch.ones(3).long(), G]
MAKERS += [lambda: X(2, 3), lambda: X(2, 3, 2), lambda: X(3), lambda: X(3) * 1j, lambda: X(3) > 0]
MAKERS += [net, lambda: sgd(net())]
VALUES: Any = [Tensor.half, Tensor.bfloat16, Tensor.double, Tensor.long, lambda t: t * 1j]
VALUES += [lambda t, c=c: t * c for c in (-1, 0, 1e30, 1e-30, 1e300, 1e-300)]
VALUES += [lambda t, v=v: t.masked_fill(X(*t.shape) == X(*t.shape).max(), v) for v in NUMBERS[:12]]
SHAPES = [lambda t: t[..., :0], lambda t: t[..., :1], lambda t: t[None], Tensor.flatten]
CHANGES = [*VALUES, *SHAPES, lambda t: t.to("meta")]
RETURNED = [None, math.nan, -1.0, 1e308, "?!", 1j]
OTHERS = {
    "alpha": (2.0, 1.0, 1 - 1e-9, 0.3, 0.05, 1e-3), "beta": (-1.0, 1.0), "name": data.NAMES,
    "kind": ("shared", "independent", "none"), "column": ("kernel",), "unit": ("kernel", "weight"),
    "parameterization": ("S0", "S1"), "scope": ("global",), "scaling": ("standard", "mean_field"),
    "dtype": (torch.float16, torch.float32, torch.float64, torch.int64, torch.complex64),
    "device": ("meta", torch.device("meta"), torch.device("cpu")), "network": ("vgg11",),
    "h": ("sigmoid", "relu", "linear"), "loss": ("logistic",), "signs": ("alternating",),
    "statistic": STATISTICS, "reference": ("limit", "twins"),
    "layers": ("head", "", ["body.0", "body.0"], ["body", "?!"]),
    "exclude": ((), "body", ["body.0", "head"], ["?!"]),
}
ONLY = {  # others begin processes, or make networks of gigabytes
    ("sweep", "processes"): [-1, 1.0, math.nan, "?!", True, [], 1j],
    ("VGG11", "width"): [-1, 0, 0.02, math.nan, math.inf, 1e308, "?!", True, [], 1j],
}
# fmt: on


def changed(value, change):
    """Return a value with its tensors, or the values of a model's first weight, changed."""
    with suppress(RuntimeError, IndexError):  # no such change of this one
        if isinstance(value, nn.Module) and change in VALUES:
            for weight in [*value.parameters()][:1]:
                weight.data = change(weight.data)
        elif isinstance(value, Tensor):
            return change(value.detach())
    return value


def parts_of(value):
    """Return the entries of a container, or the fields of a data set."""
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else vars(value)


def with_part(value, key, part):
    """Return a container, or a data set, with another part; as it was, if that is refused."""
    parts = parts_of(value) | {key: part}
    with suppress(TypeError, ValueError):
        if isinstance(value, data.Dataset):
            return data.Dataset(**parts)
        return parts if isinstance(value, dict) else type(value)(parts.values())
    return value


def bad(name, value):
    """Return a strategy for what takes the place of a good argument."""
    anything = st.sampled_from(THINGS) | st.sampled_from(MAKERS).map(lambda make: make())
    if value is None or callable(value):  # a function may raise what it likes
        anything = anything.filter(lambda thing: not callable(thing))
    found = [st.sampled_from(NUMBERS), st.floats(), st.floats(0, 2), anything]
    change = st.sampled_from(CHANGES)
    if isinstance(value, Tensor | nn.Module):
        found += 3 * [change.map(lambda c: changed(value, c))]
    elif isinstance(value, FunctionType | BuiltinFunctionType):
        change = st.sampled_from(VALUES + SHAPES)
        found += [change.map(lambda c: lambda *a: changed(value(*a), c))]
        found += [st.sampled_from(RETURNED).map(lambda v: lambda *a: v)]
    elif isinstance(value, dict | list | tuple | data.Dataset) and (parts := parts_of(value)):
        key = st.sampled_from(sorted(parts))
        found += 3 * [key.flatmap(lambda k: bad(k, parts[k]).map(partial(with_part, value, k)))]
    if name in OTHERS:
        found.append(st.sampled_from(OTHERS[name]))
    return st.one_of(found)


class TooLong(BaseException):
    """Nothing in a library stops it."""


@contextmanager
def limits(seconds):
    """Let nothing take longer, or more memory than is there."""

    def ring(*_):
        raise TooLong

    before, most = signal.signal(signal.SIGALRM, ring), resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, most[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, most)


def portrait(thing, above=()):
    """Return all that can be seen of an object, in values that compare."""
    above = (*above, id(thing))
    if isinstance(thing, torch.Generator):
        thing = thing.get_state()
    if isinstance(thing, Tensor):
        bits = thing.detach().reshape(-1).contiguous().view(torch.uint8)
        bits = "" if thing.is_meta else bits.numpy().tobytes()
        return thing.dtype, thing.shape, thing.requires_grad, bits
    if isinstance(thing, np.ndarray):
        return str(thing.dtype), thing.shape, thing.tobytes()
    if isinstance(thing, dict):
        thing = [*thing.items()]
    if isinstance(thing, list | tuple | set):
        return type(thing), [portrait(part, above) for part in thing if id(part) not in above]
    if hasattr(thing, "__dict__") and not isinstance(thing, type | ModuleType | FunctionType):
        return type(thing), portrait(vars(thing), above)
    return repr(thing)


def surroundings():
    """Return what no call may change, and what no refusal may."""
    files = {path: path.is_file() and path.read_bytes() for path in Path().rglob("*")}
    numbers = np.random.get_state(), random.getstate()  # noqa: NPY002
    settings = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    return portrait((numbers, settings)), (files, portrait(torch.get_rng_state()))


def nans(answer, name):
    """Yield the names of the parts of an answer that hold nan."""
    own = [kind for kind in type(answer).__mro__ if kind.__module__.startswith("heavytail")]
    if isinstance(answer, float | complex | Tensor | np.ndarray | np.generic):
        value = torch.as_tensor(answer)
        if not value.is_meta and value.isnan().any():
            yield name
    elif isinstance(answer, dict | list | tuple):
        for part in answer.values() if isinstance(answer, dict) else answer:
            yield from nans(part, name)
    elif isinstance(answer, nn.Module):
        yield from nans(answer.state_dict(), name)
    elif own:
        parts = [(part, v) for kind in own for part, v in vars(kind).items()]
        properties = {part for part, v in parts if isinstance(v, property | cached_property)}
        for part in {*vars(answer), *properties}:
            yield from nans(getattr(answer, part), part)


def check(call, changes):
    """Return whether a call with changed arguments is refused; assert that all is well then."""
    function, arguments = call.func, {**call.keywords, **changes}
    name, owner = function.__qualname__, getattr(function, "__self__", None)
    shown = f"{name}({', '.join(f'{key}={value!r:.99}' for key, value in changes.items())})"
    documents = (function, sys.modules[function.__module__], owner, type(owner))
    documented = " ".join(filter(None, map(inspect.getdoc, documents)))
    (always, before), mine = surroundings(), portrait((owner, arguments))
    error, lost = None, set()
    try:
        with limits(SECONDS), warnings.catch_warnings():
            if "arning" in documented:
                warnings.simplefilter("ignore", UserWarning)
            answer = function(*call.args, **arguments)
            lost = {*nans(answer, function.__name__)} - NAN.get(name, set())
    except TooLong:
        raise AssertionError(f"{shown} takes more than {SECONDS} s") from None
    except Exception as caught:
        error = caught
    now, after = surroundings()
    kept, unchanged = now == always, (after, portrait((owner, arguments))) == (before, mine)
    assert kept, f"{shown} changes threads, a default or a generator of others"
    assert not lost, f"{shown} returns nan: {lost}"
    frames = [frame.f_code for frame, _ in walk_tb(error.__traceback__)][2:] if error else []
    if not error or any(f.co_filename == __file__ or f.co_name == "_call_impl" for f in frames):
        return False  # or a function or a model that was given has raised
    said = f"{shown} says {type(error).__name__}: {error}"
    if not isinstance(error, TypeError | ValueError):
        assert any(kind.__name__ in documented for kind in type(error).__mro__[:-3]), said
        return True
    names = [*changes, *SPEAKS_OF.get(name, ()), *REFUSED.get(name, ())]
    for value in map(call.keywords.get, changes):
        names += parts_of(value) if isinstance(value, dict | data.Dataset) else ()
    own, every = ("|".join(n.removesuffix("s") for n in some) for some in (names, call.keywords))
    words = rf"\b({own})s?\b|\b({every})s?\b.* must"  # or another, which it does not fit
    assert re.search(words, str(error)), f"{said}, which names no argument"
    assert unchanged, f"{said}, and has changed something"
    return True


def fuzz(make, examples, **options):
    """Check a function with up to three of its arguments changed."""

    options |= {"deadline": None, "database": None, "report_multiple_bugs": False}
    options |= {"phases": (Phase.generate, Phase.shrink)}

    @settings(max_examples=examples, **options)
    @given(st.data())
    def one(source):
        with TemporaryDirectory() as folder, chdir(folder):
            call = make()
            names = st.lists(st.sampled_from([*call.keywords]), min_size=1, max_size=3, unique=True)
            changes = {}
            for name in source.draw(names) if call.keywords else ():
                few = ONLY.get((call.func.__qualname__, name))
                new = st.sampled_from(few) if few else bad(name, call.keywords[name])
                changes[name] = source.draw(new, name)
            check(call, changes)

    one()


def title(make):
    with TemporaryDirectory() as folder, chdir(folder):
        return make().func.__qualname__


TITLES = [title(make) for make in CALLS]
of_every_function = pytest.mark.parametrize("make", CALLS, ids=TITLES)


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch):
    def refuse(*_, **__):
        raise OSError("there is no network")

    monkeypatch.setattr(pooch, "retrieve", refuse)


@of_every_function
def test_bad_values(make):
    fuzz(make, SHORT, derandomize=True)


@pytest.mark.long
@of_every_function
def test_many_bad_values(make):
    fuzz(make, LONG)


@of_every_function
def test_good_values(make, tmp_path, monkeypatch):
    """All arguments are given, and the call is answered."""
    monkeypatch.chdir(tmp_path)
    call = make()
    parameters = [*inspect.signature(call.func).parameters.values()][len(call.args) :]
    names = {p.name for p in parameters if p.name[0] != "_" and p.kind != p.VAR_KEYWORD}
    assert names == {*call.keywords}
    assert check(call, {}) <= (call.func.__qualname__ in REFUSED)


def test_all_that_is_public_is_called():
    named = {name: getattr(ht, name) for name in ht.__all__} | vars(fokker_planck)
    here = fokker_planck.__name__  # what it imports is not its own
    own = [v for v in named.values() if str(getattr(v, "__module__", "")).startswith("heavytail")]
    own = [v for v in own if v in vars(ht).values() or v.__module__ == here]
    names = {v.__qualname__ for v in own if isinstance(v, type | FunctionType)}
    for kind in (v for v in own if isinstance(v, type)):
        methods = [k for k, v in vars(kind).items() if isinstance(v, FunctionType | classmethod)]
        names |= {f"{kind.__qualname__}.{name}" for name in methods}
    public = {name for name in names if not re.search(r"(^|\.)_", name)}
    assert public - {*TITLES} == ANSWERS


FAULTS = ["returns nan", "takes more", "KeyError", "names no argument", "changed something"]


@pytest.mark.parametrize("fault", [*FAULTS, "changes threads"])
def test_planted_faults_are_found(fault, monkeypatch):
    def planted(x):
        if repr(x) == "[1.0]":
            return None
        match fault:
            case "returns nan":
                return {"a": [1.0, torch.tensor([1.0, math.nan])]}
            case "takes more":
                while True:
                    pass
            case "KeyError":
                raise KeyError("x must be a list of a number")
            case "names no argument":
                raise ValueError("this must be a list of a number")
            case "changed something" if isinstance(x, list):
                x.append(1)
            case "changes threads":
                random.random()
        raise ValueError("x must be a list of a number")

    monkeypatch.setitem(globals(), "SECONDS", 0.1)
    with pytest.raises(AssertionError, match=fault):
        fuzz(lambda: partial(planted, x=[1.0]), SHORT, derandomize=True)
