# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,mystnb,-all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # On a GPU
#
# *Which of the experiments need a GPU, what do they cost, and what can be found out about them
# before the first hour is spent?*
#
# The other pages are made for two cores of a CPU. This one is for the experiments that are too
# large for that: the wide VGG-11 on CIFAR-10, MNIST at width 10,000, and many networks at once. The
# code is the same; only the `device` is another. Open the page on Colab (with the package installed,
# for the repository has no public address yet), choose a machine with a
# GPU, and press *Run all*: it looks at the device, says what the tables cost there, and runs as
# many of their runs as fit into a budget that you set. Without a GPU it goes the same way with
# small networks, in less than a minute. That is what is printed here; the results of the large runs
# are shown where they have been recorded, and where they have not the tables say "not yet".

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %% tags=["hide-input"]
import copy
import tempfile
from collections import defaultdict
from dataclasses import replace
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import heavytail
from heavytail import plots
from heavytail.experiments import records, runs, tables
from heavytail.experiments.data import Dataset, load
from heavytail.experiments.models import VGG11, FullyConnected
from heavytail.experiments.records import Store
from heavytail.experiments.results import Config, decode
from heavytail.experiments.sweep import sweep
from heavytail.experiments.together import Noise, train_together
from heavytail.experiments.train import (
    History,
    accuracy,
    spawn_seeds,
    train,
)
from helpers import show_table, size_of, typeset

plots.use_style()
torch.set_num_threads(1)  # on a CPU, bits may depend on their number
error = 0.1**0.5  # relative error allowed in pruning: squared, 0.1

# %% [markdown]
# ## The device and the budget
#
# The two lines to edit come first. The results go to a folder; on Colab, name one on your Drive, so
# that they outlive the session (see *On Colab* below).

# %%
minutes = 60  # what you will spend on each table
keep_in = None  # a folder for the results; None chooses one

# %%
cuda = torch.cuda.is_available()
device = "cuda" if cuda else "cpu"
size = "paper" if cuda else "quick"
scratch = tempfile.TemporaryDirectory()
folder = keep_in or ("results-gpu" if cuda else scratch.name)
store = Store(Path(folder) / "runs.json")
print(torch.cuda.get_device_name() if cuda else "no GPU", end=": ")
print(f"the {size} size")


def seeded(seed):
    return torch.Generator(device).manual_seed(seed)


# %% [markdown]
# ## What it costs
#
# How long a run takes is the number of its operations over the speed of the device. The operations
# can be counted without a device at all: torch's `meta` tensors have shapes and no numbers. A
# *table* is a list of runs under a name, in `heavytail.experiments.tables`.

# %%
NAMES = (
    "cifar10-vgg11",
    "cifar10-table",
    "cifar100-table",
    "mnist-wide",
)


def operations(config):
    """Return the additions and multiplications of a step."""
    classes = 100 if config.data == "cifar100" else 10
    shape = (1, 28, 28) if config.data == "mnist" else (3, 32, 32)
    x = torch.empty(config.batch_size, *shape, device="meta")
    if config.network == "vgg11":
        width = config.width / 128
        model = VGG11(classes, width=width, device="meta")
    else:
        x, sizes = x.flatten(1), {"width": config.width}
        model = FullyConnected(
            x.shape[1], classes, **sizes, device="meta"
        )
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops()


def cost(configs, a_step):
    """Return the cost of the steps of some runs, the most they take."""
    forms = {}
    for config in configs:
        form = replace(config, seed=0, steps=1)
        if form not in forms:
            forms[form] = a_step(config)
        yield forms[form] * config.steps


def recorded(name):
    """Return the runs of a record; none where there is no record."""
    return records.read(f"results/{name}.json")


# %% tags=["hide-input"]
rows, work = [], {}
for name in NAMES:
    configs = tables.TABLES[name].paper
    work[name] = sum(cost(configs, operations))
    cells = [f"`{name}`", str(len(configs))]
    cells.append(f"{max(config.steps for config in configs):,}")
    cells += [f"{work[name] / 1e15:.1f}"]
    cells += [f"{work[name] / 1e11 / 3600:.1f}"]
    cells += [f"{work[name] / 1e13 / 60:.1f}"]
    rows.append([*cells, str(len(recorded(name)) or "not yet")])
columns = ["table", "runs", "steps a run, at most", "10¹⁵ operations"]
columns += ["hours at 10¹¹ a second"]
columns += ["minutes at 10¹³ a second", "runs recorded"]
show_table(columns, rows)
assert work["cifar10-vgg11"] > 50 * work["cifar10-table"]
assert work["cifar10-vgg11"] > 1000 * work["mnist-wide"]
days = work["cifar10-vgg11"] / 1e11 / 86_400
hours = work["cifar10-vgg11"] / 1e13 / 3600
assert days > 20
assert hours < 10

# %% [markdown]
# The two speeds are round figures: 10¹¹ operations a second for two cores of a CPU in single
# precision, 10¹³ for a GPU. Only the forward and the backward pass are counted; noise of type III
# can take as long again on a CPU, where the layers are fully connected. The steps are bounds, as
# the runs on CIFAR stop at a training accuracy of 95 %. So MNIST at width 10,000 can be had in an
# hour even without a GPU, each table of fully connected networks on CIFAR in a day, and the VGG-11
# in a month: that one needs a GPU.
#
# What this very device needs, a dozen steps of each kind tell, with their
# noise. They are taken before anything is started. The budget then takes runs seed by seed: first all
# settings with the first seed, then with the second.


# %%
@cache
def seconds(config):
    """Return the time of a step: the second dozen, since one warms up."""
    task = runs.loaded(
        config.data, config.network, torch.device(device)
    )
    few = slice(
        config.batch_size
    )  # what is measured at the end is little
    task = replace(
        task, x_train=task.x_train[few], y_train=task.y_train[few]
    )
    faint = min(config.scale, 1e-9)  # a wild draw must not end it
    short = replace(config, steps=12, scale=faint, stop_accuracy=None)
    return [runs.trained(short, task)[2] for _ in range(2)][-1]


def within(configs, minutes):
    """Return the runs that a budget is enough for, seed by seed."""
    configs = sorted(configs, key=lambda config: config.seed)
    total = accumulate(cost(configs, seconds))
    return [
        c
        for c, t in zip(configs, total, strict=True)
        if t <= 60 * minutes
    ]


alpha = 1.75


@cache
def planned(kind, width, steps, lr):
    """Return the scale planned for a ratio of 0.2, on 64 inputs."""
    return heavytail.plan_scale(
        FullyConnected(64, 10, width=width, generator=seeded(0)),
        alpha=alpha,
        kind=kind,
        lr=lr,
        steps=steps,
        error=error,
        ratio=0.2,
        generator=seeded(1),
    )


def stand_in(config):
    """Return a small run on the digits in place of one on MNIST."""
    small = replace(config, data="digits", width=200)
    if config.kind == "none":
        return small
    sigma = planned(config.kind, 200, config.steps, config.lr)
    return replace(small, scale=float(f"{sigma:.2g}"))


small = [
    stand_in(config) for config in tables.TABLES["mnist-wide"].quick
]
assert {config.alpha for config in small} == {None, alpha}

# %% tags=["nbval-ignore-output"]
# Times differ from machine to machine, hence the tag.
asked = {"digits": small}
if cuda:
    large = ("cifar10-vgg11", "mnist-wide")
    asked |= {name: tables.TABLES[name].paper for name in large}
for name, configs in asked.items():
    need = sum(cost(configs, seconds)) / 60
    fit = len(within(configs, minutes))
    print(f"{name}: {len(configs)} runs, {need:.2g} minutes at most;")
    print(f"  the budget of {minutes} minutes is enough for {fit}")

# %% [markdown]
# ## The wide VGG-11 on CIFAR-10
#
# ### Small, on random images
#
# First one run from end to end, with a VGG-11 of a sixteenth of the filters, on 100 "images" of Gaussian
# noise with labels drawn at random. They are no CIFAR images, and **nothing here says anything
# about accuracy**: there is nothing to be learned but the labels by heart. What can be seen is that
# the noise, one draw for each *filter*, the pruning and the compaction do what they should in a
# deep network of convolutions. The first convolution and the head get no noise, as in the paper's
# experiments. The gradient is clipped; the noise, which comes after the step, is not.

# %%
law = {"alpha": 1.5, "kind": "isotropic"}
lr, steps, quiet = 0.01, 20, ("body.0", "head")
source = torch.Generator().manual_seed(1)
x = torch.randn(100, 3, 32, 32, generator=source, dtype=torch.float64)
y = torch.randint(10, (100,), generator=source)
images = Dataset("Gaussian images", x, y, x, y, 10).to(device)

narrow = VGG11(
    10, width=1 / 16, generator=seeded(0), dtype=torch.float64
)
sigma = heavytail.plan_scale(
    narrow,
    **law,
    lr=lr,
    steps=steps,
    error=error,
    ratio=0.3,
    exclude=quiet,
    draws=100,
    generator=seeded(3),
)
optimizer = torch.optim.SGD(narrow.parameters(), lr=lr)
weights = heavytail.hidden_weights(narrow, exclude=quiet)
heavytail.StableNoise(optimizer, weights, **law, scale=sigma, seed=5)


@optimizer.register_step_pre_hook
def clip(*_):
    nn.utils.clip_grad_norm_(narrow.parameters(), 1.0)


options = {"batch_size": 20, "seed": 2, "progress": False}
train(narrow, optimizer, images, steps=steps, **options)
report = heavytail.prune(narrow, error=error)
small_vgg = heavytail.compact(narrow)
print(report)
before, after = map(size_of, (narrow, small_vgg))
print(f"\nparameters: {before:,} -> {after:,}")
assert after < before
with torch.no_grad():
    before, after = narrow(images.x_test), small_vgg(images.x_test)
gap = float((before - after).abs().max() / before.abs().max())
print("the outputs agree" if gap < 1e-9 else f"apart by {gap}")
assert gap < 1e-9
assert report.error <= error

# %% [markdown]
# Each row is a convolution, and each of its columns a filter with all that feeds it. A filter that
# is gone takes along inputs of the next layer, so the compact network is smaller than the total of
# kept parameters.
#
# ### Look before you spend
#
# The table takes $\sigma = 0.003$ for both kinds of noise and all its indices, the order of size
# that the paper names. Is that a good choice for a network of eight convolutions? One look costs no
# training: take the network of full size at its start, add the noise of $K$ steps, and see by what
# factor its logits have grown. In law that noise is $\sigma (\eta K)^{1/\alpha}\, \xi$ on each
# filter (see [](04_heavy_tailed_sgd.ipynb)).

# %%
paper = tables.TABLES["cifar10-vgg11"].paper
sigma = 0.003
assert {(c.scale, c.lr) for c in paper if c.alpha} == {(sigma, 0.01)}
assert min(c.alpha for c in paper if c.alpha) == alpha
wide = VGG11(10, generator=seeded(2))
weights = heavytail.hidden_weights(wide, exclude=quiet)
start = copy.deepcopy(wide.state_dict())
some = torch.randn(2, 3, 32, 32, generator=seeded(12), device=device)
draws = [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000]


def one_draw(kind, weight, generator):
    n, d = weight.flatten(1).shape
    draw = partial(heavytail.noise_vectors, generator=generator)
    return draw(kind, alpha, n, d).view_as(weight)


@torch.no_grad()
def growths(kind):
    """Return the growth of the logits after so many draws."""
    first, added, found = wide(some).norm(), 0.0, []
    generator = seeded(9)
    noise = [one_draw(kind, weight, generator) for weight in weights]
    for K in draws:
        s = sigma * (0.01 * K) ** (1 / alpha)
        for weight, xi in zip(weights, noise, strict=True):
            weight.add_(xi, alpha=s - added)
        added = s
        found.append(float(wide(some).norm() / first))
    wide.load_state_dict(start)
    return found


growth = {kind: growths(kind) for kind in ("shared", "isotropic")}

# %% mystnb={"figure": {"caption": "The norm of the logits of the untrained VGG-11 of full width, over that before any noise, after the noise of so many steps at \u03c3 = 0.003 and \u03b7 = 0.01, without gradients. One start, one draw of each kind. Type I is too large from the first steps on, type III after several hundred.", "name": "fig-look-before-you-spend"}, "image": {"alt": "Log-log plot of a growth factor against draws of noise from 1 to 10,000. The line of type I starts near 7 and climbs to more than 10 to the 14th. That of type III stays near 1 up to thirty draws, and then climbs to some 10 to the 5th."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.5, 3.2))
for kind, factors in growth.items():
    style, label = plots.KIND_STYLES[kind], plots.KIND_LABELS[kind]
    ax.loglog(draws, factors, **style, label=label)
ax.set(xlabel="draws of noise", ylabel="growth of the logits")
ax.legend()
plt.show()

# %% tags=["hide-input"]
steps_shown = (1, 10, 100, 1000)
for kind, factors in growth.items():
    found = dict(zip(draws, factors, strict=True))
    powers = [torch.tensor(found[K]).log10() for K in steps_shown]
    shown = ", ".join(f"10^{float(power):.0f}" for power in powers)
    print(f"{plots.KIND_LABELS[kind]:14} {shown}")
print("after", ", ".join(map(str, steps_shown)), "draws")
found = dict(zip(draws, growth["shared"], strict=True))
assert found[1] > 3
assert found[100] > 1e6
assert growth["isotropic"][draws.index(10)] < 5
assert growth["isotropic"][-1] > 100

# %% [markdown]
# With type I the first step multiplies the logits by more than 3, and a hundred steps by more than
# 10⁶. A training at $\eta = 0.01$ can hardly survive that: either the loss leaves the finite
# numbers, or the units die and the output is a constant. The reason is in the inputs. After
# a ReLU all of them are nonnegative, and noise of type I adds $z\,(1, \dots, 1)$ to a filter, hence
# $z \sum_j x_j$ to its output: up to $9 \cdot 1024$ terms of one sign, in each of seven layers one
# after the other. The signs of type III cancel (Exercise 2 measures it). It too becomes large, several
# hundred steps later.
#
# No gradient acted here, and one draw stands for all $K$. But before hours are spent on the rows of
# type I, expect them to diverge, and choose the $\sigma$
# anew. The figure says how: the noise of $K$ steps depends on $\sigma (\eta K)^{1/\alpha}$ alone,
# so a scale smaller by the factor $c$ moves the lines to the right by $c^\alpha$.
#
# ### The table
#
# On a GPU the cell below runs what the budget is enough for. To run it from a shell, and to make
# the record that this page shows,
#
# ```sh
# python -m heavytail.experiments run cifar10-vgg11 \
#   --size paper --device cuda \
#   --record book/results/cifar10-vgg11.json
# ```
#
# and likewise with `cifar10-table`, `cifar100-table` and `mnist-wide` in both places. The images
# are downloaded.

# %%
on_device = partial(runs.in_sweep, device=device)


def fill(configs, known=()):
    """Run what is not known and what the budget is enough for."""
    known = {decode(entry)[0]: entry for entry in known}
    missing = [config for config in configs if config not in known]
    chosen = within(missing, minutes)
    options = {"processes": 0, "progress": cuda}
    print(sweep(on_device, chosen, store, **options))
    return [*known.values(), *filter(None, store.find(missing))]


def show(configs, entries):
    """Show the rows of a table; where nothing is there, "not yet"."""
    found = tables.rows(configs, map(decode, entries))
    cells = [tables.cells(row)[1:] for row in found]
    show_table(tables.COLUMNS[1:], cells)
    empty = [row for row in found if not row.results]
    assert len(empty) == sum("not yet" in row for row in cells)


# %%
name = "cifar10-vgg11"
configs = tables.TABLES[name].paper
entries = recorded(name)
if cuda:
    entries = fill(configs, entries)
print(f"{tables.TABLES[name].title}: {len(entries)} runs")
show(configs, entries)

# %% [markdown]
# Where a row says "not yet" there is no result: we had no GPU when the page was made, and no number
# stands in for one. The fully connected networks of width 5000, likewise:

# %% tags=["hide-output"]
for name in ("cifar10-table", "cifar100-table"):
    entries = recorded(name)
    print(f"{tables.TABLES[name].title}: {len(entries)} runs")
    show(tables.TABLES[name].paper, entries)

# %% [markdown]
# ## MNIST at width 10,000
#
# The same way, for less than a thousandth of the cost.

# %%
name = "mnist-wide"
configs = tables.TABLES[name].paper
entries = recorded(name)
if cuda:
    entries = fill(configs, entries)
print(f"{tables.TABLES[name].title}: {len(entries)} runs")
show(configs, entries)

# %% [markdown]
# A *sweep* runs what a store does not hold yet. One that fits here: 200 columns, the 1797 digits of scikit-learn, a tenth of the steps, two
# seeds. They are another task and another width, so the scales are planned anew, by `plan_scale`
# for a median ratio of 0.2. The run is the same in each part: start, training, noise, replay of the
# noise alone, prediction, pruning, scores.

# %%
entries = fill(small)
show(small, entries)
found = tables.rows(small, map(decode, entries))
ratios = {
    row.config.kind: row.estimate(lambda r: r.ratio) for row in found
}
assert ratios["none"].mean < 0.2
for row in found:
    assert len(row.finished) == 2
    assert min(result.test.accuracy for result in row.finished) > 0.85

# %% [markdown]
# The column "predicted" is drawn from the start and the law of the noise alone: its median, and its
# quantiles at 5 and 95 %.
#
# ## Many networks at once
#
# A small network leaves a GPU idle: its products are done before the next call has arrived. So
# train many in each call. `train_together` takes networks of one shape, each with its own start,
# noise and batches, and makes of each step one batched product for all of them. Here 32: eight
# seeds, each without noise and with the three kinds at the scale planned for a ratio of 0.2.

# %%
digits = load("digits").to(device, torch.float64)
width, steps = {"paper": (1000, 2000), "quick": (50, 100)}[size]
lr = 0.1
form = {"inputs": 64, "outputs": 10, "width": width}
form["dtype"] = torch.float64
kinds = ("none", "shared", "independent", "isotropic")
scales = {kind: planned(kind, width, steps, lr) for kind in kinds[1:]}


def member(i):
    """Return network, noise and batch seed of a member."""
    start, noise_seed, batches = spawn_seeds(i // 4, 3)
    kind = kinds[i % 4]
    law = {"alpha": alpha, "kind": kind, "seed": noise_seed}
    noise = kind != "none" and Noise(**law, scale=scales[kind])
    model = FullyConnected(**form, generator=seeded(start))
    return model, noise or None, batches


options = {"steps": steps, "batch_size": 100, "progress": False}
models, noises, batches = zip(*map(member, range(32)), strict=True)
began = perf_counter()
outcomes = train_together(
    models, digits, lr=lr, noises=noises, seeds=batches, **options
)
together = (perf_counter() - began) / len(models)
# One that diverged would be an error in its place, and left out.
kept = [i for i, o in enumerate(outcomes) if isinstance(o, History)]
assert len(kept) == 32 or (cuda and len(kept) > 24)

# %% [markdown]
# Does company change anything? Train them again, one after the other, by `train` and `StableNoise`,
# and compare the weights.


# %%
def alone(i):
    """Train a member by itself."""
    model, noise, seed = member(i)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    if noise is not None:
        law = {"alpha": alpha, "kind": noise.kind, "seed": noise.seed}
        law["scale"] = noise.scale
        hidden = heavytail.hidden_weights(model)
        heavytail.StableNoise(optimizer, hidden, **law)
    train(model, optimizer, digits, seed=seed, **options)
    return model


@torch.no_grad()
def apart(model, single):
    """Return the largest difference of weights, over the largest."""
    pairs = list(
        zip(model.parameters(), single.parameters(), strict=True)
    )
    gap = max(float((a - b).abs().max()) for a, b in pairs)
    return gap / max(float(b.abs().max()) for _, b in pairs)


checked = kept[:4] if cuda else kept
began = perf_counter()
singles = [alone(i) for i in checked]
singly = (perf_counter() - began) / len(singles)
gaps = [apart(models[i], singles[i]) for i in checked]
assert max(gaps) < 1e-6  # double precision; rounding grows with steps
print(f"{len(gaps)} members are, to rounding, what they are alone")

# %% tags=["nbval-ignore-output"]
# Times differ from machine to machine, hence the tag.
print(f"a member: {1e3 * together:.0f} ms in company,", end=" ")
print(f"{1e3 * singly:.0f} ms alone")

# %% mystnb={"figure": {"caption": "Each mark is a network: test accuracy after pruning at squared error 0.1, against the fraction of columns that went. The eight of one kind share everything but their seeds. Without noise they lie together. With it most lie near the planned ratio of 0.2, and a few, in which one jump leads, far to the right and low.", "name": "fig-ensemble"}, "image": {"alt": "Scatter plot of accuracy after pruning against the pruning ratio. Most marks crowd at ratios from 0.14 to 0.28 and accuracies around 0.9. Six with noise lie apart: two of type I at 0.4, one of type III at 0.58 and accuracy 0.68, three of type II beyond 0.8, with accuracies from 0.5 down to 0.03."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.5, 3.4))
after = defaultdict(list)
for i in kept:
    pruned = copy.deepcopy(models[i])
    ratio = heavytail.prune(pruned, error=error).ratio
    score = accuracy(pruned, digits.x_test, digits.y_test)
    after[kinds[i % 4]].append((ratio, score))
for kind, mark in zip(kinds, "os^D", strict=True):
    color, label = (
        plots.KIND_STYLES[kind]["color"],
        plots.KIND_LABELS[kind],
    )
    ax.plot(
        *zip(*after[kind], strict=True), mark, color=color, label=label
    )
ax.set(xlabel="pruning ratio", ylabel="test accuracy, pruned")
ax.legend(fontsize=8)
plt.show()

# %% tags=["hide-input"]
rows = []
for kind, pairs in after.items():
    ratios, scores = (sorted(part) for part in zip(*pairs, strict=True))
    cells = [plots.KIND_LABELS[kind], f"{ratios[0]:.2f}"]
    cells += [f"{ratios[-1]:.2f}", f"{100 * scores[0]:.0f}"]
    rows.append([*cells, f"{100 * scores[-1]:.0f}"])
columns = ["noise", "least ratio", "largest", "least accuracy, %"]
show_table([*columns, "largest"], rows)
points = [pair for pairs in after.values() for pair in pairs]
near = [score for ratio, score in points if ratio < 0.3]
far = [score for ratio, score in points if ratio > 0.5]
assert cuda or (len(near) > 24 and min(near) > 0.85)
assert cuda or (len(far) > 2 and max(far) < 0.75)
assert all(ratio < 0.2 for ratio, _ in after["none"])

# %% [markdown]
# Every member has, to rounding, the weights that it has when trained alone, whatever the company.
# And 32 networks show what three cannot. Most of them lie near the plan, at ratios below 0.3, and
# lose little. But a jump that comes along once in a few runs carries a network of this size far to
# the right, where pruning keeps the jump and gives away the rest. The mean ratio of a few seeds
# would hide that: look at the single runs.
#
# ## A session that breaks off
#
# A table on a GPU takes hours, and a free session ends when it likes. So every run is a line of the
# store, there whole or not at all; a sweep runs what is not there yet.
# Let a sweep of six small runs go wrong twice: at the third the session is lost, the fifth
# raises an error.

# %%
tiny = Config(data="digits", width=16, steps=40)
six = [replace(tiny, seed=seed) for seed in range(6)]
trouble = {2: KeyboardInterrupt(), 4: ArithmeticError("no such sum")}


def fragile(config, checkpoint):
    """Run a configuration; two break off, the first time."""
    if config.seed in trouble:
        raise trouble.pop(config.seed)
    return on_device(config, checkpoint)


shelf = Store(Path(scratch.name) / "six.json")
options = {"processes": 0, "progress": False}
try:
    sweep(fragile, six, shelf, **options)
except KeyboardInterrupt:
    print(f"lost, with {len(records.read(shelf.path))} of 6 runs there")
for _ in range(3):
    report = sweep(fragile, six, shelf, **options)
    print("again:", str(report).splitlines()[0])
    for config, text in report.failed:
        print(f"  seed {config.seed}:", text.splitlines()[-1])
assert (report.present, report.done, report.complete) == (6, 0, True)

# %% [markdown]
# The second sweep took the two runs that were there, made three more, and went on past the failure,
# whose traceback it reported. A failure is no result, be it of the code, of a full disk or of a process
# that was killed: the third sweep ran that one again, and the last had nothing to do. Did the
# accidents change a result?

# %%
for config, entry in zip(six, shelf.find(six), strict=True):
    held, fresh = entry["result"], on_device(config, None)
    for result in (held, fresh):
        del result["step_seconds"]
    assert cuda or held == fresh
print("no" if not cuda else "compared on a CPU only")

# %% [markdown]
# A run of many steps need not begin anew either: every 1000 steps it keeps its state, weights,
# noise and batches, beside the store, and the next session takes it up there with the bits that it
# would have had, on the same type of machine, with the same torch and number of threads (Exercise 1).
#
# ### On Colab
#
# The disk of a Colab machine goes with the session. Put the store on your Drive, in the cell at the
# top of the page, and after a disconnection press *Run all* again:
#
# ```python
# from google.colab import drive; drive.mount("/content/drive")
# keep_in = "/content/drive/MyDrive/heavytail"
# ```
#
# Let one session at a time work on such a folder: the lock that keeps a second sweep out may
# not reach from one machine to another there. (We had no GPU, and have not tried these two
# lines on Colab ourselves.)
#
# ## Half the bits
#
# Recent GPUs multiply in bfloat16 several times as fast as in single precision. It has 8 bits of a
# significand, and that makes a trap of noise: a weight of 0.1 in bfloat16 has its neighbours at a
# distance of 0.0005, and noise that is smaller than half of that is rounded away. So leave the
# *weights* in single precision, and let `torch.autocast` do the products in bfloat16.

# %%
half = torch.bfloat16
law = {"alpha": alpha, "scale": 0.001, "kind": "shared"}
unchanged = {}
for dtype in (torch.float32, half):
    weight = nn.Parameter(torch.full((20_000, 1), 0.1, dtype=dtype))
    optimizer = torch.optim.SGD([weight], lr=0.01)
    heavytail.StableNoise(optimizer, [weight], **law, seed=0)
    optimizer.step()
    same = weight.detach() == torch.tensor(0.1, dtype=dtype)
    unchanged[dtype] = float(same.float().mean())
    moved = 100 * (1 - unchanged[dtype])
    print(f"{dtype}: {moved:.0f} % of the weights moved")
assert unchanged[torch.float32] < 0.01
assert unchanged[half] > 0.8

# %%
single = load("digits").to(device)
outcome = {}
for name, options in {
    "float32": {"enabled": False},
    "bfloat16": {"cache_enabled": False},
    "bfloat16, with the cache": {"cache_enabled": True},
}.items():
    model = FullyConnected(64, 10, width=500, generator=seeded(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    law = {"alpha": alpha, "scale": 0.01, "seed": 1}
    hidden = heavytail.hidden_weights(model)
    heavytail.StableNoise(optimizer, hidden, **law)
    run = {"steps": 200, "batch_size": 100, "progress": False}
    with torch.autocast(device, half, **options):
        train(model, optimizer, single, seed=2, **run)
    assert model.head.weight.dtype == torch.float32
    right = accuracy(model, single.x_test, single.y_test)
    outcome[name] = heavytail.prune(model, error=error).ratio, right
    learned = "above 90 %" if right > 0.9 else "below 50 %"
    print(f"{name}: ratio {outcome[name][0]:.1f}, accuracy {learned}")
full, cast, stale = outcome.values()
assert abs(full[0] - cast[0]) < 0.02
assert abs(full[1] - cast[1]) < 0.02
assert min(full[1], cast[1]) > 0.9
assert stale[1] < 0.5

# %% [markdown]
# Ratio and accuracy stay where they were. The last row is another trap: `autocast` keeps the first
# cast of each weight until the context ends, so that one context around a whole training computes
# with the weights of the first step. Switch its cache off, or enter it anew for each step.
#
# ## More devices
#
# The command line above takes the same runs further. `list` tells what is there.
#
# - `--device cuda:1` names a device, `--device auto` takes a GPU if there is one.
# - `--processes 3` makes three runs at a time. On a GPU the default is one; small runs leave room
#   for more. On a CPU it is the number of cores.
# - `--seeds 2` stops at the first two seeds.
# - `--dask ADDRESS` hands the runs to the workers of a Dask scheduler, on as many machines as it
#   has. They must reach its folder, where runs keep their state. Name the `--device` of the workers: `auto` looks
#   at the machine on which the command was given.
#
# On a cluster with Slurm, `SLURMCluster` of `dask_jobqueue` starts the workers. In a session that
# stays open:
#
# ```python
# cluster = SLURMCluster(cores=1, memory="4GB", walltime="04:00:00")
# cluster.scale(jobs=32)
# print(cluster.scheduler_address)
# ```
#
# The address it prints is the one for `--dask`. One core a worker makes one run at a time on each;
# a GPU for each is asked for as your cluster wants it. What a killed worker costs is the steps
# since the last checkpoint of its run.
#
# ## Takeaway

# %% tags=["remove-input"]
hundred = growth["shared"][draws.index(100)]
power = int(torch.tensor(hundred).log10())
takeaway = f"""
> **Takeaway.** Of these tables that of the VGG-11 alone needs a GPU:
> {work["cifar10-vgg11"] / 1e17:.1f} · 10¹⁷ operations, {days:.0f} days
> at the speed of two cores and {hours:.0f} hours at that of a GPU.
> MNIST at width 10,000 is less than a thousandth of it. Look before you
> spend: at σ = 0.003 a hundred steps of noise of type I, alone,
> multiply the logits of that network by more than 10^{power}, as a
> forward pass shows. A store makes it safe to be cut off: what is there
> is not run again. And 32 networks trained in company become, to
> rounding, what each would have become alone.
"""
display(Markdown(typeset(takeaway)))

# %% [markdown]
# ## Exercises
#
# **1. Cut off in the middle.** Train the digits for 120 steps with a checkpoint every 50, and let
# the session be lost at step 80. Start again from the file. How many steps are taken twice, and are
# the weights those of a training without the accident?


# %% tags=["hide-cell"]
def attempt(path, lost_at=None):
    """Train, perhaps from a checkpoint; return model and steps."""
    model = FullyConnected(**form, generator=seeded(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    law = {"alpha": alpha, "scale": 0.01, "seed": 1}
    hidden = heavytail.hidden_weights(model)
    noise = heavytail.StableNoise(optimizer, hidden, **law)
    taken = []

    @optimizer.register_step_post_hook
    def lose(*_):
        taken.append(1)
        if len(taken) == lost_at:
            raise KeyboardInterrupt

    options = {"steps": 120, "batch_size": 100, "progress": False}
    options |= {"checkpoint": path, "checkpoint_every": 50}
    options["resumable"] = {"noise": noise}
    try:
        train(model, optimizer, digits, seed=2, **options)
    except KeyboardInterrupt:
        return None, len(taken)
    return model, len(taken)


path = Path(scratch.name) / "training.checkpoint"
_, before = attempt(path, lost_at=80)
resumed, rest = attempt(path)
whole, _ = attempt(None)
# The state of step 50 is the last one: 30 of the 80 are taken again.
print(
    f"{before} steps, then {rest}; taken twice: {before + rest - 120}"
)
assert (before, rest) == (80, 70)
assert apart(resumed, whole) < (1e-6 if cuda else 1e-300)

# %% [markdown]
# **2. Signs that cancel.** For inputs $X$ of dimension $d$ and noise $N$ of a layer, the gain
# $\lVert N X^\top \rVert \sqrt d\, / (\lVert N \rVert \lVert X \rVert)$ says how much the noise
# moves the pre-activations; for type III it is 1 in mean square, see {eq}`eq-gain`. What is it for type I, in terms of the
# sums of the inputs? Measure it with `runs.seen` where the last convolution of the wide VGG-11 gets
# its inputs.

# %% tags=["hide-cell"]
# N = z 1ᵀ, so N Xᵀ has the entries z_i Σ_j x_j, and with ||N|| =
# √d ||z|| the gain is the root of Σ (Σ_j x_j)² / Σ ||x||²: √d for
# constant inputs, 1 for signs that cancel.
with torch.no_grad():
    inner = wide.body[:18](some)  # what the last convolution is fed
    patches = nn.functional.unfold(inner, 3, padding=1)
    patches = patches.mT.flatten(0, 1)[:, :2304]  # a quarter of them
    d = patches.shape[1]
    for kind in ("shared", "isotropic"):
        xi = heavytail.noise_vectors(
            kind, 1.75, 50, d, generator=seeded(3)
        )
        _, gain = runs.seen(xi, patches)
        print(f"{plots.KIND_LABELS[kind]:14} gain {gain:.1f}")
        assert (gain > 10) if kind == "shared" else (gain < 2)

# %% [markdown]
# **3. A tenth of the price.** Which width would a VGG-11 have whose table is a tenth of the
# operations? Guess, then count.

# %% tags=["hide-cell"]
# All layers but the first and the head have inputs and filters in
# proportion to the width: operations go with its square. √0.1 = 0.32.
full = operations(paper[0])
for width in (128, 64, 40):
    share = operations(replace(paper[0], width=width)) / full
    print(f"{width:3} filters first: {share:.3f} of the operations")
assert abs(share - 0.1) < 0.01

# %% tags=["remove-cell"]
scratch.cleanup()  # nothing stays on the disk

# %% [markdown]
# *Reference:* [](api/experiments.md).
