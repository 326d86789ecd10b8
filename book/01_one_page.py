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
# # Heavy-tailed SGD in one page
#
# *Add noise with infinite variance to the weights while a network trains. Why should that make
# its weight matrix easy to prune, and what does it cost?*
#
# This page trains one small network on images of handwritten digits, with and without the noise,
# and looks at what happened to its weights. It runs in about a minute on two cores.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %%
import copy

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display

import heavytail
from heavytail import plots
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import accuracy, spawn_seeds, train
from helpers import show_table

plots.use_style()
# Double precision, so that no printed digit depends on rounding.
torch.set_default_dtype(torch.float64)
device = "cuda" if torch.cuda.is_available() else "cpu"
digits = load("digits").to(device=device, dtype=torch.float64)

# %% [markdown]
# ## The network and its columns
#
# The network has one hidden layer of $n = 500$ ReLU units and no biases. A **column** is what
# belongs to one hidden unit: its $d = 64$ incoming weights, $W_i \in \R^d$. (In PyTorch it is a
# row of `nn.Linear.weight`; the paper writes the matrix the other way round.) Setting $W_i = 0$
# removes unit $i$ from the network. The last layer is trained too, but gets no noise and is not
# pruned.
#
# ## The noise
#
# Plain SGD moves column $i$ by $-\eta$ times its stochastic gradient $g_i$. Heavy-tailed SGD
# {cite:p}`wan2024` adds one more term after each step,
#
# ```{math}
# :label: eq-heavy-tailed-sgd
# W_i \;\leftarrow\; W_i - \eta\, g_i + \sigma\, \eta^{1/\alpha}\, \xi_i, \qquad i = 1, \dots, n,
# ```
#
# with learning rate $\eta$, scale $\sigma$ and noise vectors $\xi_i \in \R^d$, fresh and
# independent for each column and step. Their coordinates follow the symmetric
# **α-stable law**, the law whose characteristic function, the mean of $e^{iuX}$, is
# $\E e^{iuX} = e^{-|u|^\alpha}$. At
# $\alpha = 2$ this is a Gaussian, with variance 2. For $\alpha < 2$ it has *heavy tails*:
# $\P(|X| > x)$ falls off like $x^{-\alpha}$, so slowly that the variance is infinite, and now and
# then one draw dwarfs all the others. Here $\alpha = 1.75$.
#
# Why the power $\eta^{1/\alpha}$? A sum of $K$ independent copies of $\xi$ has the law of
# $K^{1/\alpha} \xi$; that is what *stable* means. So over $K$ steps the noise adds up to
# $\sigma (\eta K)^{1/\alpha} \xi$ in law: it depends on the elapsed time $\eta K$, and not on the
# number of steps it was cut into. The noise matters once $\sigma (\eta K)^{1/\alpha}$ is
# comparable to a starting weight.
#
# The paper uses three kinds of noise vectors:
#
# - **type I**, *shared*: one stable number $\zeta$ for all coordinates, $\xi = \zeta\,(1, \dots, 1)$;
# - **type II**, *independent*: a stable number for each coordinate;
# - **type III**, *isotropic*: a Gaussian vector times one heavy-tailed random factor.
#
# In code the noise is one call beside the optimizer:


# %%
def trained(kind, seed, *, alpha=1.75, scale=0.005):
    """Train with noise of the given kind, or with kind "none"."""
    start, noise, batches = spawn_seeds(seed, 3)
    model = FullyConnected(
        digits.inputs,
        digits.classes,
        width=500,
        generator=torch.Generator(device).manual_seed(start),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if kind != "none":
        heavytail.StableNoise(
            optimizer,
            heavytail.hidden_weights(model),  # all but the last layer
            alpha=alpha,
            scale=scale,
            kind=kind,
            seed=noise,
        )
    options = {"steps": 500, "batch_size": 100, "seed": batches}
    train(model, optimizer, digits, progress=False, **options)
    return model


kinds = ["none", "shared", "independent", "isotropic"]
noisy = kinds[1:]
models = {
    kind: [trained(kind, seed) for seed in range(5)] for kind in kinds
}

# %% [markdown]
# Runs with the same seed share their start and their batches, whatever the noise.
#
# ## A few columns become large
#
# Sort the columns of each trained network by their norm.

# %% mystnb={"figure": {"caption": "The norms of the 500 columns after training, largest first, on logarithmic axes; five runs each. Without noise (black) all norms are within a factor of 2. With it the largest is some 3 to 50 times the median one, depending on the run.", "name": "fig-sorted-columns"}, "image": {"alt": "Four bundles of falling curves. The one without noise is almost flat. The three with noise rise steeply at their left end, some to fifty times the height of the flat one; at the right end type I meets the flat bundle, and types II and III stay a little above it."}} tags=["hide-input"]
fig, ax = plt.subplots()
for kind in kinds:
    style = plots.KIND_STYLES[kind] | {"alpha": 0.7, "linewidth": 1}
    for run, model in enumerate(models[kind]):
        norms = heavytail.column_norms(model.body[0].weight)
        label = plots.KIND_LABELS[kind] if run == 0 else None
        plots.sorted_columns(ax, norms, label=label, **style)
        if kind == "none":
            assert norms.max() < 2 * norms.min()
        else:  # the caption's range, with room for other draws
            assert 2 < norms.max() / norms.median() < 1000
ax.legend()
plt.show()

# %% [markdown]
# Without noise the curve is flat: the columns start with nearly equal norms, and training leaves
# them so. With noise the left end rises. A column that one large draw has hit stays large: only
# later gradients, or later noise, can undo it. How much of the whole matrix, in squared
# **Frobenius norm**
# $\lVert W \rVert_F^2 = \sum_i \lVert W_i \rVert^2$, lies in the largest one percent of the
# columns, five of 500?


# %%
def median(values):
    return float(torch.tensor(values).median())


def share_of_largest(model, k=5):
    """Return the share of the squared norm in the k largest columns."""
    squares = heavytail.column_norms(model.body[0].weight).square()
    return float(squares.topk(k).values.sum() / squares.sum())


share = {
    kind: [share_of_largest(m) for m in models[kind]] for kind in kinds
}
for kind in kinds:
    runs = "  ".join(f"{value:.2f}" for value in sorted(share[kind]))
    print(f"{plots.KIND_LABELS[kind]:16} {runs}")

# Equal columns would give 0.01; any noise gives more than no noise.
assert max(share["none"]) < 0.02
assert all(min(share[kind]) > 2 * max(share["none"]) for kind in noisy)

# %% [markdown]
# Five columns of 500 hold one to two percent without noise. With it they hold a tenth in one run
# and more than half in another: a heavy-tailed result is a distribution, not a number.
#
# ## How much can go?
#
# **Pruning** keeps the columns of largest norm and sets the others to zero. What it does to the
# matrix is measured by the relative error $\varepsilon$ in Frobenius norm,
#
# ```{math}
# :label: eq-relative-error
# \varepsilon^2 \;=\; \frac{\lVert W - W_{\text{kept}} \rVert_F^2}{\lVert W \rVert_F^2}
# \;=\; \frac{\sum_{i \text{ dropped}} \lVert W_i \rVert^2}{\sum_i \lVert W_i \rVert^2}.
# ```
#
# The **pruning ratio** of a network is the largest fraction of its columns that can go while
# $\varepsilon^2 \le 0.1$, the bound of the paper's experiments.
#
# ```{admonition} The paper's claim
# :class: note
# Take one hidden layer whose output is averaged over its $n$ units, with a fixed second layer,
# under the paper's regularity assumptions on activation, loss and data. Then for every kept
# fraction $\kappa$ and every $\varepsilon > 0$ there is an $N$ such that, for widths $n \ge N$ and
# step sizes $\eta \le n^{-\alpha/2 - 1}$, with probability at least $1 - \varepsilon$, keeping the $\kappa n$ columns of largest norm has relative error at most
# $\varepsilon$ {cite:p}`wan2024`.
# ```
#
# Our network lies outside this theorem: a trained last layer, no averaging,
# and a step size of 0.1 where $500^{-1.875} \approx 10^{-5}$ is asked for. The page looks for the
# effect; it does not test the statement.
#
# ```{admonition} Why, and how slowly
# :class: tip
# Let the squared norms of $n$ independent columns have a tail that falls like $x^{-\alpha/2}$, with
# $\alpha/2 < 1$, so that their mean is infinite. The sum of all of them then grows like $n^{2/\alpha}$, since it is
# carried by its largest terms. The sum of the $(1 - \kappa) n$ smallest grows only like $n$: they
# lie below a fixed quantile. Hence $\varepsilon^2$ tends to 0, for every $\kappa$, like
#
# $$ n / n^{2/\alpha} = n^{-(2/\alpha - 1)}. $$
#
# For squared norms with a finite mean both sums grow like $n$, and $\varepsilon^2$ tends to a
# positive number. At $\alpha = 1.75$ the exponent is $1/7$: to halve $\varepsilon^2$ takes
# $2^7 = 128$ times the width.
# ```
#
# For comparison we add a control to each type: Gaussian noise of the same type ($\alpha = 2$), with
# the scale at which a typical column has received as much noise after the $K = 500$ steps. By the
# sum rule above, that is the scale $\sigma_2$ for which $\sigma_2 (\eta K)^{1/2} m_2 =
# \sigma (\eta K)^{1/1.75} m_{1.75}$, with $m_\alpha$ the median length of the noise vectors.


# %%
def median_length(kind, alpha):
    """Return the median length of noise vectors in 64 dimensions."""
    source = torch.Generator().manual_seed(0)
    xi = heavytail.noise_vectors(
        kind, alpha, 100_000, 64, generator=source
    )
    return float(xi.norm(dim=1).median())


elapsed = 0.1 * 500
control = {kind: f"{kind}, Gaussian" for kind in noisy}
labels = dict(plots.KIND_LABELS)
for kind, name in control.items():
    scale = 0.005 * elapsed ** (1 / 1.75 - 1 / 2)
    scale *= median_length(kind, 1.75) / median_length(kind, 2.0)
    models[name] = [
        trained(kind, seed, alpha=2.0, scale=scale) for seed in range(5)
    ]
    labels[name] = f"{labels[kind].split(',')[0]}, Gaussian"
# Type I has length 8 |X|, and the median of |X| is 0.9612; 100,000
# draws have a relative standard error of 0.4 %.
assert abs(median_length("shared", 1.75) / (8 * 0.9612) - 1) < 0.02

# %%
error = 0.1**0.5  # the relative error is the norm, not its square
ratio, before, after = {}, {}, {}
for kind in models:
    pruned = [copy.deepcopy(model) for model in models[kind]]
    x, y = digits.x_test, digits.y_test
    before[kind] = [accuracy(model, x, y) for model in pruned]
    ratio[kind] = [
        heavytail.prune(model, error=error).ratio for model in pruned
    ]
    after[kind] = [accuracy(model, x, y) for model in pruned]


# %% tags=["hide-input"]
def spread(values, digits=2, factor=1.0):
    ordered = sorted(factor * value for value in values)
    low, middle, high = (f"{ordered[i]:.{digits}f}" for i in (0, 2, -1))
    return f"{middle} ({low} to {high})"


rows = []
order = [name for kind in noisy for name in (kind, control[kind])]
for kind in ["none", *order]:
    values = [
        spread(ratio[kind]),
        spread(before[kind], 1, 100),
        spread(after[kind], 1, 100),
    ]
    rows.append([labels[kind], *values])
columns = ["noise", "pruning ratio", "accuracy, %"]
show_table([*columns, "after pruning, %"], rows)

# Without noise all norms are nearly equal: the ratio hardly varies.
assert all(0.12 < value < 0.14 for value in ratio["none"])
# With noise it depends on large draws; others (a GPU's, say) keep the
# order of these numbers, not their digits.
assert all(min(ratio[kind]) > max(ratio["none"]) for kind in noisy)
gaussian = {kind: median(ratio[control[kind]]) for kind in noisy}
for kind in noisy:
    assert median(ratio[kind]) > gaussian[kind]
assert gaussian["shared"] > 0.16
assert max(gaussian["independent"], gaussian["isotropic"]) < 0.15

# %% [markdown]
# Each entry is the median of five runs and their range; accuracies are of 359 test images.
#
# *The network without noise can be pruned too.* A squared error of 0.1 allows the tenth of
# the columns with the smallest norms to go, and a few more because they are the smallest.
#
# *The ratio rises with noise*, in these runs most for type I. There a part of it is just noise: the
# Gaussian control rises too, since one Gaussian number moves a whole column. Gaussian noise of type
# II or III makes all columns longer alike, and leaves the ratio where it was: their whole rise is
# the heavy tail's. Hold any claim about heavy-tailed noise against Gaussian noise of the same type,
# not against none.
#
# *It varies far more than accuracy does*, from run to run: it depends on a few large draws, and a
# single run says little.
#
# ## What does pruning cost?
#
# The matrix is not the network. Prune each network by 0, 10, …, 100 % of its columns and count
# the test images that it still gets right.

# %%
removed = [step / 10 for step in range(11)]


def accuracy_curve(model):
    """Return the accuracy, in %, at each fraction of columns removed."""
    curve = []
    for fraction in removed:
        smaller = copy.deepcopy(model)
        heavytail.prune(smaller, keep=1 - fraction)
        right = accuracy(smaller, digits.x_test, digits.y_test)
        curve.append(100 * right)
    return curve


curves = {
    kind: torch.tensor([accuracy_curve(m) for m in models[kind]])
    for kind in kinds
}  # each of shape (runs, fractions)

# %% mystnb={"figure": {"caption": "Test accuracy against the fraction of columns removed, smallest norms first. Lines: median of five runs; bands: all five. At a given fraction the noise buys no accuracy: beyond one half, the networks trained with it fall first.", "name": "fig-accuracy-pruned"}, "image": {"alt": "Four curves of test accuracy stay above 90 percent until half of the columns are gone and end at 7.5 percent when all are gone. The three with noise fall well before the one without, which still stands above 90 percent with 80 percent removed."}} tags=["hide-input"]
fig, ax = plt.subplots()
for kind in kinds:
    style = plots.KIND_STYLES[kind]
    middle = curves[kind].median(0).values
    low, high = curves[kind].aminmax(dim=0)
    ax.plot(removed, middle, label=labels[kind], **style)
    ax.fill_between(
        removed, low, high, color=style["color"], alpha=0.15
    )
    assert middle[:6].min() > 90  # up to one half removed
    if kind != "none":
        assert (
            middle[7:10] < curves["none"].median(0).values[7:10]
        ).all()
ax.set_xlabel("fraction of columns removed")
ax.set_ylabel("test accuracy, %")
ax.legend(loc="lower left")
plt.show()

# %% [markdown]
# The network without noise bears *more* pruning, not less. Is the norm of a column then a bad
# guide to what it is worth? Remove the same 80 % in random order instead, and compare.


# %%
def accuracy_at_random(model, seed, fraction=0.8):
    """Return the accuracy, in %, with columns removed at random."""
    smaller = copy.deepcopy(model)
    weight = smaller.body[0].weight
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(weight), generator=generator)
    with torch.no_grad():
        weight[order[: round(fraction * len(weight))]] = 0
    return 100 * accuracy(smaller, digits.x_test, digits.y_test)


largest, chance = {}, {}
for kind in kinds:
    largest[kind] = curves[kind][:, 8].tolist()
    chance[kind] = [
        median([accuracy_at_random(model, seed) for seed in range(20)])
        for model in models[kind]
    ]
    print(
        f"{labels[kind]:16} largest kept {median(largest[kind]):.0f} %, "
        f"random ones kept {median(chance[kind]):.0f} %"
    )

lead = {k: median(largest[k]) - median(chance[k]) for k in kinds}
assert lead["none"] > 10
assert all(lead[kind] < lead["none"] - 3 for kind in noisy)

# %% [markdown]
# Without noise the largest columns are clearly the better ones to keep. With noise of type II their
# lead over random ones is about half of that, and with types I and III there is none: the norm is
# a poor guide. The noise makes the *matrix*
# compressible, since a few columns are so large that the rest is a small part of the norm; but it
# decides which columns are large, and it does not know which ones matter. Whether a compressible
# matrix is a compressible *network* is a separate question, and the one this book keeps asking.
#
# ## Takeaway

# %% tags=["remove-input"]
# Over all 15 runs with noise, each against the run without noise that
# had the same start and batches:
lost = [
    100 * (before[kind][i] - after[kind][i])
    for kind in noisy
    for i in range(5)
]
behind = [
    largest["none"][i] - largest[kind][i]
    for kind in noisy
    for i in range(5)
]
ahead = sum(points > 0 for points in behind)
assert max(lost) < 12
assert ahead >= 13

none, one, two, three = (f"{median(ratio[k]):.2f}" for k in kinds)
controls = [f"{value:.2f}" for value in gaussian.values()]
takeaway = f"""
> **Takeaway.** Heavy-tailed noise raised the median pruning ratio at
> squared error 0.1 from {none} to {one} (type I), {two} (II) and
> {three} (III). Gaussian noise of the same type and median length gave
> {controls[0]}, {controls[1]} and {controls[2]}. Pruning that far cost
> at most {max(lost):.1f} points of accuracy in a run. But with 80 % of the columns removed, the network trained without
> noise was ahead in {ahead} of 15 pairs of runs, by up to
> {max(behind):.0f} points.
"""
display(Markdown(takeaway))

# %% [markdown]
# ## Exercises
#
# **1. Louder.** Double the scale, to $\sigma = 0.01$, for type I. What happens to the pruning
# ratio, and to the accuracy before and after pruning?

# %% tags=["hide-cell"]
louder = [trained("shared", seed, scale=0.01) for seed in range(5)]
x, y = digits.x_test, digits.y_test
louder_before = [accuracy(model, x, y) for model in louder]
louder_ratio = [heavytail.prune(m, error=error).ratio for m in louder]
louder_after = [accuracy(model, x, y) for model in louder]
print(f"pruning ratio  {spread(louder_ratio)}")
print(f"accuracy, %    {spread(louder_before, 1, 100)}")
print(f"after pruning  {spread(louder_after, 1, 100)}")
# The same draws count for more: every run can be pruned further.
pairs = zip(louder_ratio, ratio["shared"], strict=True)
assert all(new > old for new, old in pairs)
assert median(louder_after) < median(after["shared"])

# %% [markdown]
# **2. Quieter.** At which scale does the noise cease to matter? Predict it by comparing
# $\sigma (\eta K)^{1/\alpha}$ with a starting weight, which is uniform on
# $(-1/\sqrt d, 1/\sqrt d)$, and test a scale five times smaller than ours.

# %% tags=["hide-cell"]
start = (1 / 3 / 64) ** 0.5  # standard deviation of a starting weight
for scale in (0.005, 0.001):
    noise = scale * elapsed ** (1 / 1.75)
    print(f"scale {scale}: noise {noise:.3f}, start {start:.3f}")
quieter = [trained("shared", seed, scale=0.001) for seed in range(5)]
quieter_ratio = [heavytail.prune(m, error=error).ratio for m in quieter]
print(f"pruning ratio {spread(quieter_ratio)}")
assert median(quieter_ratio) < 0.16
# The noise is as large as a starting weight where
# scale * 50 ** (1 / 1.75) = 0.072: at a scale of 0.008.

# %% [markdown]
# **3. The noise adds up like $K^{1/\alpha}$.** Check the sum rule without any training: give a
# weight that starts at zero no gradient, take $K = 100$ steps with noise of type I, and compare
# the median of $|W_{ij}|$ with $\sigma (\eta K)^{1/\alpha} m_\alpha$.

# %% tags=["hide-cell"]
weight = torch.nn.Parameter(torch.zeros(20_000, 1, device=device))
weight.grad = torch.zeros_like(weight)
optimizer = torch.optim.SGD([weight], lr=0.1)
heavytail.StableNoise(
    optimizer, [weight], alpha=1.75, scale=0.005, seed=0
)
for _ in range(100):
    optimizer.step()
found = float(weight.detach().abs().median())
expected = 0.005 * (0.1 * 100) ** (1 / 1.75) * 0.9612
print(f"median {found:.4f}, expected {expected:.4f}")
# The median of 20,000 draws has a relative standard error of about 1 %.
assert abs(found / expected - 1) < 0.04

# %% [markdown]
# *Reference:* [](api/noise.md), [](api/compression.md), [](api/experiments.md).
