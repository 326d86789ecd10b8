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
# # How wide is wide enough
#
# *The theorem says: there is a width from which on pruning costs at most ε. Which width?*
#
# With the whole law of the pruning error at hand this is one line. The answer is sobering, and it
# says how to read the theorem. The page runs in about half a minute.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %%
import copy
import math

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display

import heavytail
from heavytail import (
    ColumnLaw,
    plots,
    pruning_error_law,
    required_width,
)
from heavytail.compression.prediction import accumulated_scale
from heavytail.experiments.data import load
from heavytail.experiments.models import FullyConnected
from heavytail.experiments.train import train
from helpers import seeded, show_table, slider

plots.use_style()
ORANGE, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"


# %% [markdown]
# ## The width law
#
# In the limit law of {prf:ref}`thm-pruning-law` the error of keeping the fraction $\kappa$ of $n$ columns is at most
# $\varepsilon$ when $A$ is at least $m(\kappa) / (\varepsilon^2 K n^{2/\alpha - 1})$. That has
# probability $1 - \delta$ when the right side is the $\delta$-quantile $q_A(\delta)$. Solve for
# $n$:
#
# ```{math}
# :label: eq-width-law
# n^*(\varepsilon, \kappa, \delta) \;=\; \biggl( \frac{m(\kappa)}{\varepsilon^2\, K\,
# q_A(\delta)} \biggr)^{\alpha / (2 - \alpha)} .
# ```
#
# (With a start, put $m(\kappa) / \varepsilon^2 - b$ for $m(\kappa) / \varepsilon^2$. Where that is
# negative the start alone can be pruned so far, at any width.) The exponent is the point. It is 1.5 at
# $\alpha = 1.2$, 7 at 1.75, 19 at 1.9. At $\kappa$ and $\delta$ fixed, half the error takes
# $4^{\alpha / (2 - \alpha)}$ times the width: 8 times, 16 thousand times, $10^{11}$ times. Move the
# slider to keep more.

# %% tags=["hide-input", "nbval-ignore-output"]
alphas = [1.05, 1.2, 1.35, 1.5, 1.6, 1.7, 1.75, 1.8, 1.85, 1.9, 1.95]
kept = [0.02, 0.05, *(j / 10 for j in range(1, 10))]


def frame(keep):
    """Draw the width needed against the index."""
    fig, ax = plt.subplots(figsize=(6, 3.4))
    for error, color in (
        (0.05, ORANGE),
        (0.1, BLUE),
        (0.1**0.5, GREEN),
    ):
        wide = [
            required_width(a, keep, error, 0.05, log10=True)
            for a in alphas
        ]
        ax.plot(alphas, wide, color=color, label=f"ε = {error:.3g}")
    ax.axhspan(3, 5, color="0.9")
    place = {"ha": "right", "va": "center", "backgroundcolor": "0.9"}
    ax.text(1.95, 4, "networks of today", fontsize=9, **place)
    ax.set(xlabel="α", ylabel="log₁₀ of the width needed", ylim=(0, 40))
    ax.legend(loc="upper left")
    return fig


slider(
    map(frame, kept),
    [f"κ = {keep:g}" for keep in kept],
    moves="fraction of columns kept",
    name="fig-fraction-kept",
    start=kept.index(0.1),
    caption="Width from which on keeping the fraction κ costs at most "
    "the relative error ε with probability 0.95, for columns of law "
    "S(α)S(1).",
    alt="Curves of the logarithm of the width against α. If few columns "
    "are kept all rise slowly up to α of about 1.5 and then ever faster, "
    "beyond 10^40 before α reaches 2. Larger errors allowed and more "
    "columns kept lower them; at κ = 0.5 the lowest stays near 10.",
)

# %% tags=["hide-input"]
rows = []
for a in (1.2, 1.5, 1.75, 1.9):
    cells = [f"{a:g}", f"{a / (2 - a):.1f}"]
    for error in (0.1, 0.1**0.5):
        for keep in (0.1, 0.5):
            width = required_width(a, keep, error, 0.05, log10=True)
            cells.append(
                f"10^{width:.1f}" if width > 2 else "below 100"
            )
    rows.append(cells)
columns = ["α", "exponent", "ε = 0.1, κ = 0.1", "ε = 0.1, κ = 0.5"]
show_table([*columns, "ε² = 0.1, κ = 0.1", "ε² = 0.1, κ = 0.5"], rows)
huge = required_width(1.9, 0.1, 0.1, 0.05, log10=True)
assert 35 < huge < 36

# %% [markdown]
# At $\alpha = 1.9$, to keep a tenth of the columns at an error of 0.1 takes $10^{36}$ columns. No
# network is so wide. The theorem's "there is an $N$" is true, and at such settings $N$ is out of
# reach. The last column of the table lies below a hundred, where the limit law no longer holds; read
# it as "small". It is for columns of *one* coordinate, and noise of type I makes such columns. In 140
# coordinates it is not so: noise of type III at $\alpha = 1.9$ takes $10^{12}$ columns for the same
# ([](12_experiments.ipynb), exercise 1). Three more things set the paper's experiments
# {cite:p}`wan2024` apart from the theorem.
#
# - **The error they allow is large.** They prune at $\varepsilon^2 = 0.1$, a third of the norm, and
#   ask how many columns may go. At that error half of all *Gaussian* numbers may go too:

# %%
gauss = (
    torch.randn(1_000_000, generator=seeded(0)).square().sort().values
)
ratio = float((gauss.cumsum(0) <= 0.1 * gauss.sum()).double().mean())
print(f"ratio of Gaussian columns of dimension one: {ratio:.3f}")
plain = torch.randn(20_000, 140, generator=seeded(0)).square().sum(1)
plain = plain.sort().values
ratio_140 = float(
    (plain.cumsum(0) <= 0.1 * plain.sum()).double().mean()
)
print(f"of dimension 140: {ratio_140:.3f}")
assert ratio > 0.5 > 0.2 > ratio_140

# %% [markdown]
# - **The start counts.** Columns of a network have many coordinates, and their start is not
#   compressible: in dimension 140 all norms are nearly equal, and little more than a tenth of the
#   columns can go. By {eq}`eq-error-with-start` the noise must first outgrow the start.
# - **Scale and time do more than width.** $K$ grows like $\sigma^2 t^{2/\alpha}$. At $\alpha = 1.75$
#   twice the $\sigma$ does as much as $2^{14}$ times the width.
#
# Which of these is at work can be told apart, without training, by the prediction of
# [](04_heavy_tailed_sgd.ipynb): vary the width at a fixed $\sigma$, $\sigma$ at a fixed width, and
# put a Gaussian, $\alpha = 2$, beside.

# %%
rows, ratios = [], {}
for kind in ("shared", "isotropic"):
    for a in (1.75, 1.9, 2.0):
        cells = [plots.KIND_LABELS[kind], f"{a:g}"]
        for sigma in (0.003, 0.01, 0.03):
            pair = []
            for n in (300, 3000):
                start = torch.empty(n, 140).uniform_(
                    -(140**-0.5), 140**-0.5, generator=seeded(n)
                )
                found = heavytail.predict_pruning(
                    start,
                    alpha=a,
                    scale=sigma,
                    kind=kind,
                    lr=0.01,
                    steps=2000,
                    error=0.1**0.5,
                    draws=30,
                    generator=seeded(1),
                )
                pair.append(float(found.quantile(0.5)))
            ratios[kind, a, sigma] = pair
            cells.append(f"{pair[0]:.2f}, {pair[1]:.2f}")
        rows.append(cells)
columns = ["noise", "α", "σ = 0.003: ratio at n = 300, 3000"]
show_table([*columns, "σ = 0.01", "σ = 0.03"], rows)
assert ratios["shared", 2.0, 0.03][1] > 0.45  # without heavy tails
assert ratios["isotropic", 2.0, 0.03][1] < 0.2
gain = ratios["isotropic", 1.75, 0.03]
assert gain[1] > gain[0] + 0.05

# %% [markdown]
# With type I near $\alpha = 2$, $\sigma$ decides and hardly the width, and Gaussian noise of the same
# $\sigma$ comes near $\alpha = 1.9$: that noise makes the columns one-dimensional, and half of all
# numbers may go. It stays behind $\alpha = 1.75$. With type III, Gaussian noise does nothing at all, at
# any strength. There it is the tail that compresses, and at $\alpha = 1.75$ the width helps as
# {eq}`eq-error-with-start` says. (Start and noise are kept fixed as $n$ grows. The map of
# {prf:ref}`prop-two-scalings` multiplies both by $\sqrt n$, which changes no ratio.)
#
# ## By brute force
#
# Where the width law can be reached, is it right? Take $\alpha = 1.2$, $\kappa = 0.5$,
# $\varepsilon = 0.1$, $\delta = 0.05$, and count how often $n$ columns miss the error.

# %%
alpha, keep, error, delta = 1.2, 0.5, 0.1, 0.05
star = required_width(alpha, keep, error, delta)
repeat = 20_000


def misses(n, generator):
    """Return how often the pruning error of n columns is above 0.1."""
    squares = heavytail.symmetric_stable(
        alpha, (repeat, n), generator=generator, dtype=torch.float64
    ).square()
    low = squares.sort(1).values[:, : n - round(keep * n)].sum(1)
    return float((low / squares.sum(1) > error**2).double().mean())


print(f"width law: {star:.0f}")
generator = seeded(1)
found = {}
for part in (0.7, 0.85, 1.0, 1.15, 1.3):
    n = 2 * round(part * star / 2)
    found[part] = misses(n, generator)
    print(f"n = {n}: missed in {100 * found[part]:.1f} % of all cases")
stderr = math.sqrt(delta * (1 - delta) / repeat)
assert found[0.85] > delta + 2 * stderr
assert found[1.15] < delta - 2 * stderr

# %% [markdown]
# The 5 % lie between 0.85 and 1.15 times the predicted width.
#
# ## A trained network against the law
#
# Take a network of 2000 columns and train it on the digits with noise of type I. Its hidden matrix
# is start plus gradients plus noise; the noise has the scale
# $s = \sigma (\eta \cdot \text{steps})^{1/\alpha}$.
# `heavytail.certificate` keeps the fewest columns at the error $\varepsilon$, and asks where
# $\varepsilon$ lies in the law of the error of keeping that many columns of start plus noise: the
# *level* is the probability, under that law, of an error as small or smaller. Near 0 the matrix
# compresses better than its noise explains, near 1 worse; in between it is consistent.

# %%
digits = load("digits")
alpha, error = 1.75, 0.1**0.5
size = {
    "inputs": digits.inputs,
    "outputs": digits.classes,
    "width": 2000,
}
start = FullyConnected(**size, generator=seeded(10))
rows = []
certificates = {}
for scale, lr, steps in (
    (0.0005, 0.1, 400),
    (0.008, 0.1, 400),
    (0.00001, 0.5, 3000),
    (0.0, 0.5, 3000),
):
    model = copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    heavytail.StableNoise(
        optimizer,
        heavytail.hidden_weights(model),
        alpha=alpha,
        scale=scale,
        kind="shared",
        seed=11,
    )
    options = {"steps": steps, "batch_size": 100, "progress": False}
    train(model, optimizer, digits, seed=12, **options)
    columns = ColumnLaw.noisy(
        start.body[0].weight,
        kind="shared",
        alpha=alpha,
        scale=accumulated_scale(alpha, scale or 0.00001, lr, steps),
        samples=200_000,
        generator=seeded(13),
    )
    found = heavytail.certificate(
        model.body[0].weight, columns, error=error
    )
    certificates[scale] = found
    median = float(found.law.quantile(0.5))
    cells = [f"{scale:g}", f"{lr:g}", f"{steps}"]
    cells.append(f"{found.keep:.3f}")
    rows.append([*cells, f"{median:.3f}", f"{found.level:.3f}"])
columns = ["σ", "η", "steps", "kept at ε² = 0.1", "median ε of the law"]
show_table([*columns, "level"], rows)
print(certificates[0.008])
assert 0.005 < certificates[0.008].level < 0.995
assert certificates[0.00001].level < 0.01

# %% [markdown]
# The first two are consistent with the law of start and noise. The third had next to no noise and
# many large gradient steps. It keeps a fraction at which the law allows an error so small in one of
# two hundred draws. The last row is the control: trained without any noise, and compared with the same law, it has the same
# level. So the gradient did it, by making some columns longer than others. That is what a
# certificate is for: it can say that the mechanism of the theorem is *not* what one sees. (Where the
# noise is this small, the law is nearly a point, and two columns in a thousand make the difference.)
#
# ## The columns of the mean-field limit
#
# {prf:ref}`cor-trained-columns` is about the limit of [](05_propagation_of_chaos.ipynb), where the columns follow a
# drift too. A bounded drift leaves the tail alone ([](06_the_law_of_the_limit.ipynb)):
# $c = \sigma^\alpha t\, c_{\text{kind}}$. The rest can be read off one large simulation,
# `ColumnLaw.of`: $m(\kappa)$ from the sorted norms, and $b$, what the mean square has beyond its
# power tail, as $\E \min(R^2, z) - c\, z^{1 - \alpha/2} / (1 - \alpha/2)$ at a large $z$. (It is the
# $b$ of {prf:ref}`prop-start-noise`. In $1 - \E e^{-\lambda R^2} = \lambda \int_0^\infty
# e^{-\lambda u}\, \P(R^2 > u)\, du$ the power tail gives $(K \lambda)^{\alpha/2}$, and the rest
# $\lambda \int_0^\infty (\P(R^2 > u) - c\, u^{-\alpha/2})\, du$.) Then networks of other widths follow
# without a simulation.

# %%
alpha, sigma, T = 1.5, 0.5, 1.0
x = torch.randn(16, 2, generator=seeded(20), dtype=torch.float64)
problem = heavytail.MeanField(x, torch.sin(2 * x[:, 0]))
run = {"T": T, "steps": 20, "alpha": alpha, "sigma": sigma}
run |= {"kind": "isotropic", "dtype": torch.float64}
many = heavytail.simulate(problem, 400_000, **run, seed=21).particles
tail = heavytail.noise_tail_constant("isotropic", alpha, 2)
columns = ColumnLaw.of(many, alpha=alpha, tail=sigma**alpha * T * tail)
levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
rows = []
for n, systems in ((100, 4000), (1000, 1000)):
    nets = heavytail.simulate(
        problem, n, **run, seed=n, systems=systems
    ).particles
    squares = nets.square().sum(2).sort(1).values
    low = squares[:, : n - round(0.2 * n)].sum(1)
    found = (low / squares.sum(1)).sqrt().quantile(levels)
    exact = pruning_error_law(alpha, 0.2, n, columns=columns)
    exact = exact.quantile(levels)
    pairs = zip(found.tolist(), exact.tolist(), strict=True)
    rows.append([f"{n:,}", *(f"{a:.3f} / {b:.3f}" for a, b in pairs)])
    assert abs(float(found[1] / exact[1]) - 1) < 0.04
show_table(["n", "10 %, networks / law", "50 %", "90 %"], rows)
needed = required_width(alpha, 0.2, 0.1, 0.05, columns=columns)
print(
    f"b = {columns.light:.2f}; keeping a fifth at 10 %: n = {needed:.1e}"
)

# %% [markdown]
# The columns of a network of 100 are not quite independent; for their norms it does not show. This is
# {prf:ref}`cor-trained-columns` at work, at steps of 1/20.
#
# ## Takeaway

# %% tags=["remove-input"]
small = required_width(1.2, 0.5, 0.1, 0.05)
takeaway = f"""
> **Takeaway.** The width needed grows like
> $(1/\\varepsilon^2)^{{\\alpha/(2 - \\alpha)}}$. To keep
> half of the columns at ε = 0.1 takes {small:.0f} columns at α = 1.2,
> and $10^{{{required_width(1.9, 0.5, 0.1, 0.05, log10=True):.1f}}}$ at
> α = 1.9. At ε² = 0.1, the bound of the experiments, even Gaussian
> columns of one coordinate lose {100 * ratio:.0f} %: with noise of type
> I and α near 2 little is left for the tail to do. With type III all of
> the gain is the tail's, and at α = 1.75 it grows with the width.
"""
display(Markdown(takeaway))

# %% [markdown]
# ## Exercises
#
# **1. The price of certainty.** How does $n^*$ depend on $\delta$, for small $\delta$? Take
# $\alpha = 1.5$, $\kappa = 0.5$, $\varepsilon = 0.1$, and $\delta$ from 0.05 down to $10^{-12}$.

# %% tags=["hide-cell"]
# With a = α/2, log P(A < x) ~ -C x^(-a/(1-a)), so q_A(δ) is of order
# log(1/δ)^(-(1-a)/a), and the width law raises 1/q_A to the power
# α/(2-α) = a/(1-a): n* grows in proportion to log(1/δ), for every α.
each = []
for delta in (0.05, 1e-3, 1e-6, 1e-12):
    width = required_width(1.5, 0.5, 0.1, delta)
    each.append(width / math.log(1 / delta))
    print(f"δ = {delta:g}: n* = {width:.0f}, over log: {each[-1]:.0f}")
assert each[3] / each[2] < each[2] / each[1] < each[1] / each[0] < 1.4

# %% [markdown]
# **2. Which ratio?** Turn the question round: at $n = 10^4$ pure columns with $\alpha = 1.9$, which
# fraction can be removed at $\varepsilon^2 = 0.1$ in the median?

# %% tags=["hide-cell"]
low, high = 0.0, 1.0
while high - low > 1e-4:
    keep = (low + high) / 2
    median = float(pruning_error_law(1.9, keep, 1e4).quantile(0.5))
    low, high = (keep, high) if median > 0.1**0.5 else (low, keep)
print(f"ratio {1 - keep:.3f}")
direct = heavytail.symmetric_stable(
    1.9, (400, 10_000), generator=seeded(3), dtype=torch.float64
).square()
share = direct.sort(1).values.cumsum(1) / direct.sum(1, keepdim=True)
counted = (share <= 0.1).double().mean(1).median()
print(f"counted {float(counted):.3f}")
assert abs(float(counted) - (1 - keep)) < 0.01

# %% [markdown]
# **3. Noise against start.** For start plus noise, at which $n$ do the two terms below the bar of
# {eq}`eq-error-with-start` agree, with $A$ at its median? Take the columns certified above with
# $\sigma = 0.0005$ and 400 steps.

# %% tags=["hide-cell"]
columns = certificates[0.0005].law.columns
a = columns.alpha / 2
A = heavytail.Stable(
    torch.tensor(a, dtype=torch.float64),
    1.0,
    scale=math.cos(math.pi * a / 2) ** (1 / a),
).icdf(torch.tensor(0.5, dtype=torch.float64))
parts = columns.light / (columns.strength * float(A))
log10 = math.log10(parts) / (2 / columns.alpha - 1)
print(f"n = 10^{log10:.1f}")
assert log10 > 4

# %% [markdown]
# *Reference:* [](api/compression.md).
