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
# # Does compression explain generalisation?
#
# *A network that can be described in few bits cannot have memorised much. Do heavy tails make such
# networks?*
#
# That compressible networks generalise is the reason to want compressibility, beside smaller files.
# It is a theorem, with numbers in it. This page computes them for networks trained with and without
# noise, and shows where the argument stops. It runs in about half a minute.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %%
import copy
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display

import heavytail
from heavytail import compression_bound, plots, quantize
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import accuracy, train

plots.use_style()
ORANGE, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    display(Markdown(text))


# %% [markdown]
# ## Counting networks
#
# Fix, before any data is seen, a grid of $2^q$ values for a weight. A network of $d$ inputs and $o$
# outputs that keeps $k$ of $n$ hidden columns, with its weights on the grid, is one of finitely
# many.
#
# ````{prf:theorem} A bound by counting
# :label: thm-counting
# Let $b$ bits be spent on the scales of the grid. With probability $1 - \delta$ over $N$
# independent training examples, for all $k$ and all such networks at once, the error $R$ and the
# training error $R_N$ (fractions of examples that are classified wrongly) satisfy
#
# $$ R \;\le\; R_N + \sqrt{ \frac{ \log n + \log \binom nk + \bigl( q k (d + o) + b \bigr) \log 2
# + \log \frac1\delta }{2N} } . $$
# ````
#
# ````{prf:proof}
# For one network that does not depend on the data, $N (1 - R_N)$ counts independent successes, and
# Hoeffding's inequality gives $\P(R > R_N + t) \le e^{-2 N t^2}$. There are at most
# $M_k = \binom nk 2^{q k (d + o) + b}$ networks with $k$ columns. Choose $t_k$ with
# $e^{-2 N t_k^2} = \delta / (n M_k)$, and add up over all networks with $k$ columns, and over
# $k = 1, \dots, n$.
# ````
#
# The idea, a network is described by few bits, so few networks compete for the data, is that of
# {cite:t}`arora2018`; the count is the plainest there is. Two things to keep in mind. The bound is
# about the network that *has been* pruned and rounded, so its training error is what counts. And
# the count knows nothing of heavy tails: they enter only if they let $k$ be small.
#
# ## The numbers
#
# Train on the digits, without noise and with two kinds of it. Prune at $\varepsilon^2 = 0.1$, round
# to 8 bits with a scale of 32 bits for each row, and compute.

# %%
digits = load("digits")
N, d, o = len(digits.y_train), digits.inputs, digits.classes
n = 1000
options = {"steps": 800, "batch_size": 100, "progress": False}


def trained(data, kind=None, scale=0.0):
    model = FullyConnected(d, o, width=n, generator=seeded(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if kind:
        heavytail.StableNoise(
            optimizer,
            heavytail.hidden_weights(model),
            alpha=1.75,
            scale=scale,
            kind=kind,
            seed=2,
        )
    train(model, optimizer, data, seed=3, **options)
    return model.eval()


def compressed(model, bits, **criterion):
    """Return the pruned and rounded network, and how many columns it has."""
    masked = copy.deepcopy(model)
    kept = heavytail.prune(masked, **criterion).kept
    small = heavytail.compact(masked)
    for layer in (small.body[0], small.head):
        layer.weight.data = quantize(layer.weight, bits)
    return small, kept


def bound(model, kept, bits, data=digits, delta=0.05):
    """Return training error, bound and test error of such a network."""
    error = 1 - accuracy(model, data.x_train, data.y_train)
    value = compression_bound(
        error,
        columns=n,
        kept=kept,
        inputs=d,
        outputs=o,
        examples=N,
        bits=bits,
        scale_bits=32 * (kept + o),
        delta=delta,
    )
    return error, value, 1 - accuracy(model, data.x_test, data.y_test)


nets = {
    "none": trained(digits),
    "I, shared": trained(digits, "shared", 0.005),
    "III, isotropic": trained(digits, "isotropic", 0.005),
}
rows = []
for name, model in nets.items():
    small, kept = compressed(model, 8, error=0.1**0.5)
    error, value, test = bound(small, kept, 8)
    cells = [name, f"{kept}", f"{100 * error:.1f}", f"{100 * test:.1f}"]
    rows.append([*cells, f"{100 * value:,.0f}"])
    assert value > 5
columns = [
    "noise",
    "kept of 1000",
    "training error, %",
    "test error, %",
]
table([*columns, "bound, %"], rows)

# %% [markdown]
# An error above 100 % cannot happen: the bounds are *vacuous*, by a factor of seven and more. There
# are 1437 training images, and even the pruned networks have tens of thousands of weights. Noise
# lowers the bound, and it remains worthless; noise of type I also made a third of the answers of the
# pruned network wrong.
#
# ## Where it would say something
#
# The root is below 1 when about $q k (d + o) \log 2 < 2N$: less than $2N / \log 2$ bits in all. So
# many columns may be kept, at most:

# %% mystnb={"figure": {"caption": "Columns that may be kept for a bound below 100 % (solid) and below 50 % (dashed), training error 0, 4 bits a weight, for the input dimensions of digits, ECG5000 and MNIST. Dots: the number of training examples that there are.", "name": "fig-vacuous"}, "image": {"alt": "Log-log plot of columns against training examples: three rising lines of slope one, that of 64 inputs highest. The dots lie at 13 columns for digits, 2 for ECG5000, and 54 for MNIST."}} tags=["hide-input"]
examples = torch.logspace(2, 7, 60).round().long().tolist()


def most_columns(size, wanted, inputs, outputs):
    """Return the largest k with a bound below what is wanted, or 0."""
    shape = {"columns": n, "inputs": inputs, "outputs": outputs}
    best = 0
    for k in range(1, n + 1):
        value = compression_bound(
            0.0, **shape, kept=k, examples=size, bits=4
        )
        if value > wanted:
            break
        best = k
    return best


sets = {
    "digits": (64, 10, 1437, ORANGE),
    "ECG5000": (140, 2, 500, BLUE),
    "MNIST": (784, 10, 60_000, GREEN),
}
fig, ax = plt.subplots(figsize=(5.5, 3.4))
for name, (inputs, outputs, size, color) in sets.items():
    for wanted, dash in ((1.0, "-"), (0.5, "--")):
        line = [
            most_columns(m, wanted, inputs, outputs) for m in examples
        ]
        label = name if wanted == 1 else None
        ax.loglog(examples, line, dash, color=color, label=label)
    there = most_columns(size, 1.0, inputs, outputs)
    ax.plot(size, max(there, 0.5), "o", color=color)
    print(f"{name}: at most {there} columns on {size:,} examples")
ax.set(
    xlabel="training examples", ylabel="columns kept", ylim=(0.8, 1100)
)
ax.legend()
plt.show()

# %% [markdown]
# A few columns. So prune to a few, and train what is left for a while, with the masks in place: the
# bound holds for whatever comes out, since it counts all networks of that shape.

# %%
rows, best = [], {}
for name, model in nets.items():
    values = {}
    for kept in (2, 4, 6, 8, 12):
        masked = copy.deepcopy(model)
        heavytail.prune(masked, keep=kept / n)
        optimizer = torch.optim.SGD(masked.parameters(), lr=0.1)
        train(masked, optimizer, digits, seed=4, **options)
        for bits in (2, 3, 4):
            small, k = compressed(masked.eval(), bits, keep=kept / n)
            # Three sizes of the grid were tried: a third of δ for each.
            values[kept, bits] = bound(small, k, bits, delta=0.05 / 3)
    (kept, bits), found = min(
        values.items(), key=lambda item: item[1][1]
    )
    error, value, test = found
    best[name] = value
    cells = [name, f"{kept}", f"{bits}", f"{100 * error:.0f}"]
    rows.append([*cells, f"{100 * test:.0f}", f"{100 * value:.0f}"])
columns = ["noise before", "columns", "bits", "training error, %"]
table([*columns, "test error, %", "best bound, %"], rows)
print(f"guessing: {100 * (1 - 1 / o):.0f} %")

# %% [markdown]
# Now the bounds are below 100 %, and for the network without noise well below what guessing would
# have. That is a theorem about a network of four columns and three bits: it *has* learned. But the
# bound is six times what the test shows, and noise did not help it. The columns that noise had
# made long were not those that had learned most.
#
# ## Compressible, and nothing learned
#
# There is also a doubt that no constant removes. Compressibility is measured in the norm of the
# *matrix*. Does it say anything about the *function*? Take images whose pixels sum to zero, by
# subtracting each image's mean. Noise of type I is a multiple of $(1, \dots, 1)$, and
# $\langle w + z (1, \dots, 1), x \rangle = \langle w, x \rangle$: the network cannot see it.

# %%
centred = replace(
    digits,
    x_train=digits.x_train - digits.x_train.mean(1, keepdim=True),
    x_test=digits.x_test - digits.x_test.mean(1, keepdim=True),
)
rows, logits, ratios = [], {}, {}
for name, scale in (("none", 0.0), ("I, shared", 0.005)):
    model = trained(centred, "shared" if scale else None, scale)
    with torch.no_grad():
        logits[name] = model(centred.x_test)
    wrong = 1 - accuracy(model, centred.x_test, centred.y_test)
    norm = float(heavytail.column_norms(model.body[0].weight).norm())
    report = heavytail.prune(model, error=0.1**0.5)
    after = 1 - accuracy(model, centred.x_test, centred.y_test)
    ratios[name] = report.ratio
    cells = [name, f"{norm:.0f}", f"{report.ratio:.3f}"]
    rows.append([*cells, f"{100 * wrong:.1f}", f"{100 * after:.1f}"])
columns = ["noise", "norm of the matrix", "ratio at ε² = 0.1"]
table([*columns, "test error, %", "after pruning, %"], rows)
apart = float((logits["none"] - logits["I, shared"]).abs().max())
print(f"largest difference of the two networks' outputs: {apart:.0e}")
assert apart < 1e-2
assert ratios["I, shared"] > 2 * ratios["none"]

# %% [markdown]
# Two networks with the same outputs, trained on the same batches; one has a matrix that compresses
# far better. If compressibility of the matrix explained how well a network generalises, the two
# would differ. What pruning then drops is chosen by a noise that nothing has learned from. The
# function can be compressed too, but how far is a question about the function.
#
# ```{admonition} What the paper claims, and what it does not
# :class: note
# The paper proves that the weights become compressible, and points to compression bounds of others
# for what may follow for generalisation {cite:p}`wan2024`. It computes no such bound.
# ```
#
# ## Takeaway

# %% tags=["hide-input"]
takeaway = f"""
> **Takeaway.** The counting bound is a theorem. At ε² = 0.1 it is
> vacuous by a factor of seven and more for all networks here. With a few
> columns left it is not: {100 * best["none"]:.0f} % without noise,
> {100 * best["I, shared"]:.0f} and {100 * best["III, isotropic"]:.0f} %
> with it. And the norm of the matrix is the wrong thing to compress:
> noise that the data cannot see raised the ratio from
> {ratios["none"]:.2f} to {ratios["I, shared"]:.2f} and changed no output.
> On this evidence heavy tails do not explain generalisation.
"""
display(Markdown(takeaway))

# %% [markdown]
# ## Exercises
#
# **1. Realisable.** If the training error is 0, Hoeffding's inequality is wasteful: a network of
# error $R$ fits all $N$ examples with probability $(1 - R)^N$. Which bound follows, and how many
# columns may the digits keep for it to be below 50 %?


# %% tags=["hide-cell"]
# n M_k (1 - R)^N <= δ, so R <= 1 - exp(-log(n M_k / δ) / N): linear in the
# number of bits over N, not its root.
def realisable(k, bits=4, delta=0.05):
    log_count = (
        math.log(n) + math.log(math.comb(n, k)) - math.log(delta)
    )
    log_count += bits * k * (d + o) * math.log(2)
    return 1 - math.exp(-log_count / N)


k = max(k for k in range(1, 100) if realisable(k) < 0.5)
print(
    f"{k} columns: {100 * realisable(k):.0f} %, if they fit all images"
)
assert 3 <= k <= 6

# %% [markdown]
# **2. How many bits?** For the network with noise of type III, pruned at $\varepsilon^2 = 0.1$, how
# few bits a weight leave the test error as it is?

# %% tags=["hide-cell"]
wrong = {}
for bits in (1, 2, 3, 4, 6, 8):
    small, kept = compressed(
        nets["III, isotropic"], bits, error=0.1**0.5
    )
    wrong[bits] = bound(small, kept, bits)[2]
    print(f"{bits} bits: test error {100 * wrong[bits]:.1f} %")
assert wrong[6] < wrong[8] + 0.01
