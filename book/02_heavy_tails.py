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
# # Heavy tails
#
# *What changes when the noise has infinite variance, and where does one see it?*
#
# The noise of this book follows an α-stable law. This page meets that law in four steps: what
# infinite variance does to a sample, why these laws and no others, how far out their tails begin,
# and what the three kinds of noise vectors do to a column of weights. It runs in a few seconds.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %%
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display

import heavytail
from heavytail import plots
from heavytail.laws.chambers_mallows_stuck import (
    symmetric_from_uniforms,
)
from helpers import seeded, show_table, slider

plots.use_style()
# Double precision, so that no printed digit depends on rounding.
torch.set_default_dtype(torch.float64)


# %% [markdown]
# ## What infinite variance does
#
# Take a million draws from each of four laws. They are the symmetric α-stable laws of index
# $\alpha = 2$, 1.75, 1.2 and 1, and for the moment it is enough to know two of them by name: 2 is
# a Gaussian, of variance 2, and 1 is the Cauchy law, with density $1 / (\pi (1 + x^2))$. The
# variance is finite at $\alpha = 2$ only. The mean exists at $\alpha = 2$, 1.75 and 1.2, where
# it is 0, and does not exist at $\alpha = 1$.

# %%
n = 1_000_000
draws = {
    alpha: heavytail.symmetric_stable(alpha, n, generator=seeded(0))
    for alpha in (2.0, 1.75, 1.2, 1.0)
}
count = torch.arange(1, n + 1)
mean = {a: x.cumsum(0) / count for a, x in draws.items()}
variance = {
    a: x.square().cumsum(0) / count - mean[a].square()
    for a, x in draws.items()
}

# %% [markdown]
# The **running mean** and the **running variance** are those of the first $n$ draws. The four
# samples are made from the same random bits, so that their large draws fall on the same places.

# %% mystnb={"figure": {"caption": "Mean and variance of the first n draws, as n grows. The Gaussian's settle (black). Below \u03b1 = 2 the variance keeps climbing in jumps, each of them one draw, and sinks slowly in between; at \u03b1 = 1 the mean jumps too, and for ever.", "name": "fig-running-moments"}, "image": {"alt": "Two panels against the number of draws up to a million. Left, running means: those for alpha 2 and 1.75 flatten to zero, the one for 1.2 approaches it slowly, the Cauchy one still wanders. Right, running variances on a logarithmic scale: the Gaussian one is flat at 2, the others rise in steps, the one for 1.75 only a little, the Cauchy one by orders of magnitude."}} tags=["hide-input"]
STYLES = {
    2.0: {"color": "#000000", "linestyle": "-"},
    1.9: {"color": "#666666", "linestyle": (0, (1, 1))},
    1.75: {"color": "#CC79A7", "linestyle": (0, (6, 1))},
    1.2: {"color": "#56B4E9", "linestyle": (0, (4, 1, 1, 1))},
    1.0: {"color": "#E69F00", "linestyle": (0, (2, 1))},
}
shown = torch.logspace(1, 6, 1500).round().long().unique() - 1
fig, (left, right) = plt.subplots(1, 2)
for alpha in draws:
    style = STYLES[alpha] | {"linewidth": 1.3}
    label = f"α = {alpha:g}"
    at = count[shown]
    left.semilogx(at, mean[alpha][shown], **style)
    right.loglog(at, variance[alpha][shown], label=label, **style)
left.set_title("running mean", fontsize=10)
right.set_title("running variance", fontsize=10)
for ax in (left, right):
    ax.set_xlabel("number of draws, n")
fig.legend(
    *right.get_legend_handles_labels(),
    loc="outside lower center",
    ncols=4,
)
plt.show()

# %%
print("   α     first 10³       10⁴       10⁵       10⁶   largest jump")
jump = {}
for alpha in draws:
    v = variance[alpha]
    first = "".join(f"{v[10**k - 1]:10.1f}" for k in (3, 4, 5, 6))
    jump[alpha] = float((v[100:] / v[99:-1]).max())
    print(f"{alpha:4}    {first}     × {jump[alpha]:.2f}")
# Relative standard error of a Gaussian variance: sqrt(2/n) = 0.0014.
assert abs(variance[2.0][-1] / 2 - 1) < 0.006
assert jump[2.0] < 1.1
# Below 2 some later draw lifts it by a quarter in nearly any sample.
assert min(jump[a] for a in (1.75, 1.2, 1.0)) > 1.2

# %% [markdown]
# The table shows the running variance, and the largest factor by which *one* draw, after the first
# hundred, multiplies it. For the Gaussian that factor is next to 1. For the others there is no
# variance to settle on: the running one is, at each time, what the few largest draws have made
# of it. At $\alpha = 1.75$ this is easy to miss. The entries grow so slowly that a sample of any
# one size seems to have a variance.
#
# ### Sums grow like $n^{1/\alpha}$
#
# How large is a sum $S_n = X_1 + \dots + X_n$? Under finite variance, of the order of
# $n^{1/2}$. Cut the million draws into blocks of $n$, take the median of $|S_n|$ over the blocks,
# and read off the power of $n$ with which it grows from $n = 1$ to $n = 1000$.

# %%
exponent = {}
for alpha, x in draws.items():
    one = x.abs().median()
    thousand = x.view(-1, 1000).sum(1).abs().median()
    exponent[alpha] = float((thousand / one).log() / math.log(1000))
    print(
        f"α = {alpha:4}: |S_n| grows like n^{exponent[alpha]:.2f}, "
        f"and 1/α = {1 / alpha:.2f}"
    )
    # The median of 1000 sums is good to 5 %: 0.007 in the exponent.
    assert abs(exponent[alpha] - 1 / alpha) < 0.03

# %% [markdown]
# A heavier tail means larger sums: at $\alpha = 1$ the sum grows like $n$, and dividing by $n$,
# as the mean does, gains nothing at all. For $1 < \alpha < 2$ the mean does converge to 0, but at
# the rate $n^{1/\alpha - 1}$: for $\alpha = 1.2$ that is $n^{-1/6}$, and a million draws bring it
# down by a factor of 10 where Gaussian draws gain a factor of 1000.
#
# ### One draw carries a part of the whole
#
# Where do the large sums come from? Look at the sum of squares, which is what norms are made of,
# and at the share that its largest term has in it,
#
# ```{math}
# :label: eq-tails-share
# \text{share}_n \;=\; \frac{\max_{i \le n} X_i^2}{X_1^2 + \dots + X_n^2}.
# ```

# %%
sizes = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000]


def shares(x, size):
    """Return share_n in each block of size n."""
    squares = x.view(-1, size).square()
    return squares.amax(1) / squares.sum(1)


share = {
    alpha: [float(shares(x, size).median()) for size in sizes]
    for alpha, x in draws.items()
}

# %% mystnb={"figure": {"caption": "Share of the largest square in a sum of n squares: medians over the blocks of n that a million draws give. Under the Gaussian it goes to 0; under a heavy tail it levels off, and one draw of ten thousand carries a good part of the sum. (The last points are medians of 100 blocks only, hence their scatter.)", "name": "fig-share-of-largest"}, "image": {"alt": "Four curves against the number of terms, from ten to ten thousand. The Gaussian one falls from a third to nearly zero. The one for alpha 1.75 falls to a little below 0.2 and levels off, the one for 1.2 stays near one half, the Cauchy one near 0.6."}} tags=["hide-input"]
fig, ax = plt.subplots()
for alpha in reversed(draws):
    label = f"α = {alpha:g}"
    ax.semilogx(sizes, share[alpha], label=label, **STYLES[alpha])
ax.set_ylim(0, 1)
ax.set_xlabel("number of terms, n")
ax.set_ylabel("share of the largest square")
ax.legend(ncols=2, loc="upper right")
plt.show()

# %%
for alpha in draws:
    row = "   ".join(f"{share[alpha][i]:.3f}" for i in (0, 3, 6, 9))
    print(f"α = {alpha:4}: n = 10, 100, 1000, 10,000:   {row}")
# The Gaussian's vanishes like log(n)/n, nearly tenfold for tenfold n.
assert share[2.0][9] < share[2.0][6] / 4 < share[2.0][3] / 16
# At 1.75 it does not: medians of 1000 and 100 blocks, whose standard
# errors are about 0.005 and 0.015.
assert abs(share[1.75][9] - share[1.75][6]) < 0.07
# Below 1.2 the median of the limit is known, as it exceeds 1/2: with
# a = α/2, P(share > x) = sin(πa)/(πa) ((1 - x)/x)^a for x >= 1/2.
for alpha in (1.2, 1.0):
    a = alpha / 2
    odds = (math.pi * a / 2 / math.sin(math.pi * a)) ** (1 / a)
    limit = 1 / (1 + odds)
    print(f"α = {alpha:4}: {limit:.3f} in the limit")
    # Standard error of the median of 1000 blocks: 0.013 to 0.015.
    assert abs(share[alpha][6] - limit) < 0.06

# %% [markdown]
# For the Gaussian no single term counts in the long run. For $\alpha < 2$ the largest of a
# thousand squares, or of a million, keeps a share that does not vanish. (Exercise 3 finds its
# size: for large $n$ the sum is, in the mean, $2 / (2 - \alpha)$ times its largest term.) What if the
# norms of a thousand columns behave like this? How much of the matrix lies in the five largest?

# %%
for alpha, x in draws.items():
    squares = x.view(-1, 1000).square()
    five = squares.topk(5).values.sum(1) / squares.sum(1)
    print(f"α = {alpha:4}: {100 * float(five.median()):.0f} %")
    # Equal columns would give 0.5 %.
    assert five.median() > (0.3 if alpha < 2 else 0.02)

# %% [markdown]
# A few columns are then a large part of the matrix, the larger the smaller $\alpha$ is: that is
# what the rest of the book is about.
#
# ## Stability
#
# Among all laws with heavy tails, why these? Noise is added at every step of training, so what
# counts is the law of a sum. It is simplest if summing does not change its form. And nothing else
# can come out in the long run: if sums of independent terms of one law, suitably shifted and scaled,
# have a limit in law, that limit is stable {cite:p}`nolan2020`. A random
# variable $X$ has a **strictly stable** law of index $\alpha$ if for each $K$ and independent
# copies $X_1, \dots, X_K$ of it,
#
# ```{math}
# :label: eq-tails-stability
# X_1 + \dots + X_K \;\overset{\text{law}}{=}\; K^{1/\alpha} X.
# ```
#
# The **characteristic function** of $X$ is $u \mapsto \E e^{iuX}$; it exists for every law and
# determines it. The *symmetric α-stable law* $\S(\alpha)\S(\gamma)$ of index
# $\alpha \in (0, 2]$ and scale $\gamma \ge 0$ is the one with
#
# ```{math}
# :label: eq-tails-cf
# \E e^{iuX} \;=\; e^{-|\gamma u|^\alpha}, \qquad u \in \R.
# ```
#
# It is symmetric since this is real, and $\gamma X \sim \S(\alpha)\S(\gamma)$ if
# $X \sim \S(\alpha)\S(1)$. That {eq}`eq-tails-cf` is a characteristic function for all these
# $\alpha$ is a classical fact {cite:p}`nolan2020`; for $\alpha > 2$ it is not (exercise 1). Its
# stability takes two lines. The characteristic function of a sum of independent variables is the
# product of theirs, and that of $cX$ at $u$ is that of $X$ at $cu$, so
#
# $$
# \E e^{iu(X_1 + \dots + X_K)} = \bigl(e^{-|\gamma u|^\alpha}\bigr)^K
# = e^{-|\gamma K^{1/\alpha} u|^\alpha} = \E e^{iu K^{1/\alpha} X}.
# $$
#
# A mean of cosines is the way to test this: they are bounded, so that it converges at the usual
# rate whatever the tail.

# %%
blocks = draws[1.75].view(-1, 10)  # K = 10
sums = blocks.sum(1) / 10 ** (1 / 1.75)
print("  u   one draw   ten, summed and rescaled   formula")
for u in (0.25, 0.5, 1.0, 2.0):
    exact = math.exp(-(u**1.75))
    single = float((u * draws[1.75]).cos().mean())
    summed = float((u * sums).cos().mean())
    print(f"{u:4}   {single:6.3f} {summed:18.3f} {exact:20.3f}")
    # Standard error at most 1/sqrt(draws): 0.001, and 0.0032 of sums.
    assert abs(single - exact) < 0.004
    assert abs(summed - exact) < 0.012

# %% [markdown]
# ### The two cases with a name
#
# **$\alpha = 1$ is the Cauchy law**, since the density $1/(\pi(1 + x^2))$ has the characteristic
# function $e^{-|u|}$. There {eq}`eq-tails-stability` reads: the mean of $K$ Cauchy draws has the
# law of one draw. This is why its running mean never settles.
#
# **$\alpha = 2$ is the Gaussian, with variance $2 \gamma^2$.** The characteristic function of
# $N(0, s^2)$ is $e^{-s^2 u^2 / 2}$, and here it is $e^{-\gamma^2 u^2}$. So $\S(2)\S(1)$ is
# $N(0, 2)$, *not* $N(0, 1)$: the standard normal law is $\S(2)\S(1/\sqrt 2)$.

# %%
quarter = float((draws[1.0].abs() <= 1).double().mean())
gaussian = float(draws[2.0].var())
standard = float((draws[2.0] / 2**0.5).var())
print(f"Cauchy, P(|X| <= 1)      {quarter:.2f}   (exactly 1/2)")
print(f"variance of S(2)S(1)     {gaussian:.2f}   (exactly 2)")
print(f"the same, scale 1/√2     {standard:.2f}   (exactly 1)")
assert abs(quarter - 0.5) < 0.0025  # five standard errors
assert abs(gaussian - 2) < 0.014  # five standard errors, of 0.0028
assert abs(standard - 1) < 0.007

# %% [markdown]
# Why not divide the Gaussian by $\sqrt 2$, as one might for convenience? Because $\alpha$ is a
# knob that experiments turn, and one formula should hold all along it. With {eq}`eq-tails-cf` the
# law moves continuously as $\alpha \to 2$. A Gaussian of variance 1 would put a jump there, by
# the factor $\sqrt 2$, and a comparison of $\alpha = 1.9$ with "no heavy tail" would compare two
# scales as well. The book keeps all noise, of every index and kind, on the scale of
# {eq}`eq-tails-cf`.

# %%
for alpha in (1.9, 1.99, 2.0):
    x = heavytail.symmetric_stable(alpha, 200_000, generator=seeded(1))
    median = float(x.abs().median())
    print(f"median |X| at α = {alpha:4}: {median:.2f}")
    # Standard error 0.003; the exact medians are 0.954 to 0.956.
    assert abs(median - 0.955) < 0.015
normal = torch.randn(200_000, generator=seeded(1)).abs().median()
print(f"median |X| of N(0, 1):    {float(normal):.2f}")
assert abs(normal - 0.6745) < 0.01  # standard error 0.0018

# %% [markdown]
# ### Between the two
#
# Move the slider from Cauchy to Gauss. On the left is the density, on the right a **random walk**,
# the sums of the first $1, 2, \dots, K$ draws over $K^{1/\alpha}$. All walks are made from the same
# random bits.

# %% tags=["hide-input", "nbval-ignore-output"]
alphas = [1 + j / 20 for j in range(21)]
grid = torch.linspace(-10, 10, 201)
steps = 1000


def frame(alpha):
    """Draw the density and a walk."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7, 3))
    density = heavytail.Stable(alpha).log_prob(grid).exp()
    left.semilogy(grid, density, color="#0072B2")
    left.semilogy(grid, gauss, color="0.6", linewidth=1)
    left.set(ylim=(1e-5, 0.5), xlabel="x", title="density")
    x = heavytail.symmetric_stable(alpha, steps, generator=seeded(58))
    walk = x.cumsum(0) / steps ** (1 / alpha)
    right.plot(walk, color="#D55E00", linewidth=1)
    right.set(ylim=(-3, 3), xlabel="draws", title="rescaled sum")
    return fig


gauss = heavytail.Stable(2.0).log_prob(grid).exp()
slider(
    map(frame, alphas),
    [f"α = {alpha:.2f}" for alpha in alphas],
    moves="stability index",
    name="fig-index",
    start=alphas.index(1.75),
    caption="Left, the density of S(α)S(1); grey, that of α = 2. Right, "
    "the sums of 1000 draws. At α = 2 no single step is seen. As α falls "
    "the tails rise and the walk breaks up into jumps.",
    alt="Left, a density on a logarithmic axis: a parabola at alpha 2, "
    "whose arms bend outward to slow tails as alpha falls to 1. Right, a "
    "random walk, which looks continuous at alpha 2 and moves by a few "
    "large jumps at alpha 1.",
)

# %% [markdown]
# ### The first moment
#
# A stable law with $\alpha < 2$ has no variance to describe its size by. For $\alpha > 1$ the
# mean size is finite, and known:
#
# ```{math}
# :label: eq-tails-first-moment
# \E |X| \;=\; \gamma\, \frac{2}{\pi}\, \Gamma\!\left(1 - \frac{1}{\alpha}\right),
# \qquad \alpha > 1.
# ```
#
# *Proof, for $\gamma = 1$.* Start from $|x| = \frac{2}{\pi} \int_0^\infty (1 - \cos ux)\, u^{-2}\, du$
# and take the mean under the integral, whose integrand is not negative. Then integrate by parts
# (for $\alpha > 1$ the boundary terms vanish) and substitute $t = u^\alpha$:
#
# $$
# \E |X| = \frac{2}{\pi} \int_0^\infty \frac{1 - e^{-u^\alpha}}{u^2}\, du
# = \frac{2}{\pi} \int_0^\infty \alpha u^{\alpha - 2} e^{-u^\alpha}\, du
# = \frac{2}{\pi} \int_0^\infty t^{-1/\alpha} e^{-t}\, dt. \qquad \blacksquare
# $$
#
# At $\alpha = 2$ this is $2/\sqrt\pi$, the mean of $|N(0, 2)|$. As $\alpha \to 1$ it grows without
# bound.
#
# To check it by a plain average asks for patience: the average converges at the same slow rate
# $n^{1/\alpha - 1}$ as above. It is wiser to average only up to a bound $b$, and to take the rest
# from the law of the tail that the next section gives,
# $\int_b^\infty \P(|X| > x)\, dx \approx C_\alpha b^{1 - \alpha} / (\alpha - 1)$.

# %%
print("   α     exact   average of 10⁶   bounded, plus tail")
for alpha in (2.0, 1.75, 1.2):
    exact = 2 / math.pi * math.gamma(1 - 1 / alpha)
    size, b = draws[alpha].abs(), 20.0
    rest = heavytail.tail_constant(alpha) / (alpha - 1)
    bounded = float(size.clamp(max=b).mean() + rest * b ** (1 - alpha))
    plain = float(size.mean())
    print(f"{alpha:4} {exact:9.2f} {plain:12.2f} {bounded:18.2f}")
    # Standard error of the bounded average: 0.005 at α = 1.2, less
    # above; the tail's next term adds 0.0025.
    assert abs(bounded - exact) < 0.025
parts = draws[1.2].abs().view(20, -1).mean(1)
low, high = float(parts.min()), float(parts.max())
below = int((parts < exact).sum())
print(f"20 averages of 50,000 at α = 1.2: {low:.1f} to {high:.1f},")
print(f"and {below} of them are too low")
assert high - low > 0.4  # they disagree in the second digit
assert below > 10  # most miss the rare draws that make up the rest

# %% [markdown]
# The plain average at $\alpha = 1.2$ is still 4 % off after a million draws, and most shorter ones
# err on the same side: they are too low (in the limit five of six are: their deviations tend to a stable law with
# positive jumps only, which is negative with probability $1/\alpha$ {cite:p}`nolan2020`), because a good part of
# the mean lies in draws too rare to have come up.
#
# ## The tail
#
# For $0 < \alpha < 2$ the symmetric stable law has a **power law** for its tail,
#
# ```{math}
# :label: eq-tails-tail
# \P(|X| > x) \;\sim\; C_\alpha\, \gamma^\alpha\, x^{-\alpha} \quad (x \to \infty), \qquad
# C_\alpha = \frac{2}{\pi}\, \Gamma(\alpha) \sin \frac{\pi \alpha}{2},
# ```
#
# where $\sim$ means that the ratio of the two sides tends to 1 {cite:p}`nolan2020`. In code the
# constant is `heavytail.tail_constant(alpha)`. At $\alpha = 2$ it is 0, and the tail is Gaussian.
#
# *Where does the constant come from?* Suppose that $\P(|X| > x) \sim C x^{-\alpha}$, with
# $\gamma = 1$. An integration by parts, and then $t = ux$, give for $u \downarrow 0$
#
# $$
# 1 - e^{-u^\alpha} = \E[1 - \cos uX] = \int_0^\infty u \sin(ux)\, \P(|X| > x)\, dx
# \;\sim\; C u^\alpha \int_0^\infty \frac{\sin t}{t^\alpha}\, dt .
# $$
#
# The left side is $\sim u^\alpha$, so $C$ is one over the last integral, which is
# $\Gamma(1 - \alpha) \cos(\pi \alpha / 2)$ (at $\alpha = 1$, its limit $\pi/2$). The reflection
# formula of the Gamma function turns that into $C_\alpha$. So the tail is read off the
# term $|u|^\alpha$ of the characteristic function at 0. (Assumed here, and proved in
# {cite:t}`nolan2020`: that there is a power law, and that the limit may be taken under the integral.)
#
# **Which moments exist?** Since
# $\E |X|^p = \int_0^\infty p x^{p - 1}\, \P(|X| > x)\, dx$, the tail decides: the integrand is of
# the order of $x^{p - 1 - \alpha}$, and the integral is finite for $p < \alpha$ and infinite for
# $p \ge \alpha$. So there is no variance below $\alpha = 2$ and no mean at $\alpha \le 1$.
#
# On logarithmic axes a power law is a straight line of slope $-\alpha$. Here is the fraction of
# the draws that lie beyond $x$, and the line for each.

# %% mystnb={"figure": {"caption": "Fraction of a million draws beyond x (thick), and the power law of the tail (thin). All four laws share a body up to about x = 1. Then the heavier leave for their lines; \u03b1 = 1.9 leaves the Gaussian last, and meets its line only just above the grey level, one draw in a thousand.", "name": "fig-empirical-tails"}, "image": {"alt": "Four falling curves on logarithmic axes, with a thin straight line for each but the Gaussian. They lie together up to x of about 1. The Gaussian one then drops steeply. The one for alpha 1.9 drops along with it at first and bends onto its line near x of 8, at a probability of about 0.002. Those for 1.75 and 1.2 reach their lines earlier and higher."}} tags=["hide-input"]
tails = {a: draws[a] for a in (2.0, 1.75, 1.2)}
tails[1.9] = heavytail.symmetric_stable(1.9, n, generator=seeded(0))
beyond = torch.arange(n, 0, -1) / n
points = torch.cat(
    [
        torch.linspace(0, n * 0.99, 300),
        n - torch.logspace(4, 1, 300),
    ]
).long()
fig, ax = plt.subplots(figsize=(7, 4))
for alpha in (1.2, 1.75, 1.9, 2.0):
    ordered = tails[alpha].abs().sort().values
    label = f"α = {alpha:g}"
    style = STYLES[alpha] | {"linewidth": 2.2}
    ax.loglog(ordered[points], beyond[points], label=label, **style)
    if alpha < 2:
        C = heavytail.tail_constant(alpha)
        x = torch.tensor([(C * 2) ** (1 / alpha), 1e5])
        line = {"color": STYLES[alpha]["color"], "linewidth": 0.8}
        ax.loglog(x, C * x**-alpha, **line)
ax.axhline(1e-3, color="#999999", linewidth=0.8)
ax.set_xlim(0.3, 1e4)
ax.set_ylim(1e-5, 1.3)
ax.set_xlabel("x")
ax.set_ylabel("P(|X| > x)")
ax.legend()
plt.show()

# %%
for alpha in (1.2, 1.75, 1.9):
    C = heavytail.tail_constant(alpha)
    x = (C / 1e-4) ** (1 / alpha)  # the line is at 1e-4 there
    ratio = float((tails[alpha].abs() > x).double().mean()) / 1e-4
    print(
        f"α = {alpha:4}: C = {C:.3f}; beyond x = {x:4.0f}, "
        f"{ratio:.2f} of what the line says"
    )
    # About 100 draws lie there: the standard error is 10 %. (The laws
    # share their random bits, so this is one check, not three.)
    assert abs(ratio - 1) < 0.35

# %% [markdown]
# ### How far out does the power law begin?
#
# One need not guess it from draws. The package makes a draw from two independent variables, $V$,
# uniform on $(0, \pi/2)$, and $W$, standard exponential, by a map {cite:p}`chambers1976` of the form
# $|X| = k(V)\, W^{1 - 1/\alpha}$. So for $1 < \alpha \le 2$
#
# ```{math}
# :label: eq-tails-exact
# \P(|X| > x) \;=\; \P\Bigl(W > \bigl(x / k(V)\bigr)^{\frac{\alpha}{\alpha - 1}}\Bigr)
# \;=\; \frac{2}{\pi} \int_0^{\pi/2} \exp\Bigl(-\bigl(x / k(v)\bigr)^{\frac{\alpha}{\alpha - 1}}\Bigr)\, dv,
# ```
#
# an integral over a bounded interval. The function $k$ is the map itself, at $W = 1$.


# %%
def exact_tail(alpha, x):
    """Return P(|X| > x) for 1 < alpha <= 2 and a tensor x."""
    log_v = torch.linspace(-40, math.log(math.pi / 2), 2_001)
    v = log_v.exp()
    one = torch.full_like(v, math.exp(-1))  # W = -log(one) = 1
    k = symmetric_from_uniforms(alpha, v, one)
    power = (x[:, None] / k) ** (alpha / (alpha - 1))
    inner = torch.exp(-power) * v  # dv = v dlog(v)
    return 2 / math.pi * torch.trapezoid(inner, log_v)


# At α = 2 the law is N(0, 2), whose tail is erfc(x/2). The rule with
# 2000 nodes is good to 6 digits or more.
x = torch.tensor([0.5, 1.0, 3.0, 6.0])
assert torch.allclose(exact_tail(2.0, x), torch.erfc(x / 2), rtol=1e-6)

# %% [markdown]
# From which $x$ on is the exact tail within 10 % of the power law, and how many of 1000 draws lie
# out there?

# %%
x = torch.logspace(-0.3, 2, 401)
start, in_thousand = {}, {}
for alpha in (1.2, 1.5, 1.75, 1.9, 1.99):
    tail = exact_tail(alpha, x)
    line = heavytail.tail_constant(alpha) * x**-alpha
    last = int(((tail / line - 1).abs() > 0.1).nonzero().max())
    start[alpha] = float(x[last + 1])
    in_thousand[alpha] = 1000 * float(tail[last + 1])
    print(
        f"α = {alpha:4}: from x = {start[alpha]:4.1f} on, "
        f"where {in_thousand[alpha]:5.1f} draws of 1000 lie"
    )
# The grid is spaced by 1.3 %; the values are otherwise exact.
assert abs(start[1.9] - 8.4) < 0.3
assert abs(in_thousand[1.9] - 1.8) < 0.15
assert in_thousand[1.2] > 400
assert in_thousand[1.99] < 0.25
gap = float((exact_tail(1.9, x) - exact_tail(2.0, x)).abs().max())
print(f"1.9 and 2 differ by at most {gap:.3f} in P(|X| > x)")
# Less than what 1000 draws can tell: the largest deviation of their
# empirical tail from the true one exceeds 0.043 in 5 % of samples.
assert gap < 0.043
six = torch.tensor([6.0])
outliers = [1000 * float(exact_tail(a, six)) for a in (1.9, 2.0)]
print(
    f"beyond x = 6 lie {outliers[0]:.1f} of 1000 at α = 1.9, "
    f"{outliers[1]:.2f} at α = 2"
)
assert outliers[0] > 100 * outliers[1]

# %% [markdown]
# At $\alpha = 1.2$ the power law takes in nearly half of the sample. At $\alpha = 1.9$ the body
# hides it. Two draws of a thousand reach the region where the tail is a power law, and the whole
# law is so close to the Gaussian that a Kolmogorov-Smirnov test, which looks at the largest
# difference in probability, would seldom tell them apart by 1000 draws. What does show are a few
# outliers (the last line): enough to say that the law is not Gaussian, too few to say what its tail
# is. At 1.99 it takes thousands of draws to meet one of the tail. The constant $C_\alpha$ is the
# reason: it goes to 0 as $\alpha \to 2$, and the Gaussian body must have died out before so small a
# power law can show.
#
# A warning follows for the study of trained networks: *a heavy tail close to $\alpha = 2$ cannot be
# read off a thousand columns by its tail alone.* A straight line fitted to the visible part of such a tail gives an
# index well above 2, as if the variance were finite (exercise 2). An estimator that assumes the
# stable law can do it, if that assumption holds.
#
# ### Reading the index off data
#
# Someone hands over a list of numbers: what is its $\alpha$? Three estimators answer, and
# each assumes something else. With $|x|_{(1)} \ge |x|_{(2)} \ge \dots$ the sizes in falling
# order, **Hill's estimator** {cite:p}`hill1975` is
#
# ```{math}
# :label: eq-tails-hill
# \frac{1}{\hat\alpha} \;=\; \frac1k \sum_{i=1}^{k} \log \frac{|x|_{(i)}}{|x|_{(k+1)}},
# \qquad \text{standard error } \frac{\hat\alpha}{\sqrt k}.
# ```
#
# For an exact power law $\P(|X| > x) = x^{-\alpha}$, $x \ge 1$, the excess of $\log |X|$ over any level
# $\ge 0$ is exponential with mean $1/\alpha$, so each choice of $k$ is right, and the largest is
# best. For any other law the choice is a bet that the power law has begun at $|x|_{(k+1)}$. One should
# see the whole curve before believing a point of it.

# %%
n = 100_000
alphas = (1.2, 1.5, 1.9)
data = {
    a: heavytail.symmetric_stable(a, n, generator=seeded(2))
    for a in alphas
}
uniform = torch.rand(n, generator=seeded(3))
pareto = {a: uniform ** (-1 / a) for a in alphas}
ks = torch.logspace(1, math.log10(n / 2), 120).long().unique()

# %% mystnb={"figure": {"caption": "Hill plots: the estimate against the number k of largest values that it uses, 100,000 values in each sample; bands of two standard errors. On Pareto data (left) any k will do. On stable data (right) the curve for \u03b1 = 1.9 is right, within a wide band, for the largest few hundred values only. From there it climbs to 3.7 and falls again; where it crosses 1.9 near the right end it is right by accident.", "name": "fig-hill"}, "image": {"alt": "Two panels of three curves each, with dashed lines at 1.2, 1.5 and 1.9. Left, Pareto data: all curves settle on their lines. Right, stable data: the curve for 1.2 stays near its line for k up to ten thousand, the one for 1.5 up to about a thousand; the one for 1.9 leaves its line at a few hundred, climbs to 3.7 and falls again."}} tags=["hide-input"]
fig, panels = plt.subplots(1, 2, sharey=True)
colors = {1.2: "#56B4E9", 1.5: "#009E73", 1.9: "#666666"}
titles = ("Pareto data", "stable data")
for ax, sample, title in zip(
    panels, (pareto, data), titles, strict=True
):
    for a in alphas:
        curve = heavytail.hill_curve(sample[a], ks)
        plots.hill_plot(ax, curve, color=colors[a], label=f"α = {a}")
        ax.axhline(a, color=colors[a], linestyle="--", linewidth=0.8)
    ax.set_ylim(0.8, 6)
    ax.set_title(title, fontsize=10)
panels[0].legend(loc="upper left")
panels[1].set_ylabel("")
plt.show()

# %% [markdown]
# The other two estimators take the stable law at its word. The **block log-moment** estimator
# {cite:p}`mohammadi2015` reads {eq}`eq-tails-stability` in logarithms: if $S$ is a sum of $K$
# terms,
#
# ```{math}
# :label: eq-tails-log-moment
# \frac{1}{\alpha} \;=\; \frac{\E \log |S| - \E \log |X|}{\log K},
# ```
#
# and it replaces the expectations by means over blocks of $K$ values. It needs values centred at 0
# whose sums, divided by $K^{1/\alpha}$, have the law of one term, and does not look
# at the tail. **Maximum likelihood** takes $\alpha$ and the scale under which
# the data are most probable, and needs the density of the law; the next page shows where
# that comes from. All three, and their standard errors, assume independent values.

# %%
rows = []
found = {}
samples = {f"stable, α = {a}": x for a, x in data.items()}
sign = data[1.9].sign()
samples["Pareto, α = 1.5, random sign"] = sign * pareto[1.5]
for name, x in samples.items():
    found[name] = (
        heavytail.hill(x, 1000),
        heavytail.log_moment(x, 10),
        heavytail.stable_mle(x),
    )
    cells = [f"{e.alpha:.3f} ± {e.stderr:.3f}" for e in found[name]]
    rows.append([name, *cells])
columns = ["data", "Hill, k = 1000", "log-moment, blocks of 10"]
show_table([*columns, "likelihood"], rows)

for a in alphas:
    # The two that know the law are within four standard errors of it.
    for e in found[f"stable, α = {a}"][1:]:
        assert abs(e.alpha - a) < 4 * e.stderr
# Hill is many standard errors off at 1.9, and right on Pareto data.
far = found["stable, α = 1.9"][0]
assert far.alpha - 1.9 > 5 * far.stderr
wrong = found["Pareto, α = 1.5, random sign"]
assert abs(wrong[0].alpha - 1.5) < 4 * wrong[0].stderr
assert abs(wrong[2].alpha - 1.5) > 5 * wrong[2].stderr

# %% [markdown]
# Each entry is an estimate and its standard error. On stable data the two that know the law find
# its index, likelihood with the smaller error. Hill's estimate at 1.9 is off by many of *its own*
# standard errors: that error tells how much the estimate would move with other data, and
# nothing of how far off it is. On the Pareto data, whose tail is a power law but whose sums are not
# like their terms, it is the other way round: Hill is right, and the other two are off. So
# **no estimate of a tail index means anything without its assumption.** The practical check is
# two estimators that assume different things. Where they disagree by many standard errors, one of
# the assumptions fails.
#
# ## Three kinds of noise vectors
#
# The noise on a column is a vector in $\R^d$. Many laws on $\R^d$ have stable coordinates; they
# differ in how a **jump**, a noise vector far out in the tail, is shared out among the coordinates.
#
# ```{admonition} The paper's definition
# :class: note
# The noise vector $\xi \in \R^d$ is of one of three types {cite:p}`wan2024`, for $\alpha \in (0, 2]$:
#
# - **type I**: $\xi = \zeta\,(1, \dots, 1)$ with one $\zeta \sim \S(\alpha)\S(1)$;
# - **type II**: the coordinates of $\xi$ are independent, each $\S(\alpha)\S(1)$;
# - **type III**: $\xi$ is rotationally invariant, with
#   $\E e^{i \langle u, \xi \rangle} = e^{-\lVert u \rVert^\alpha}$.
# ```
#
# In code they are `heavytail.noise_vectors(kind, alpha, n, d)`, with `kind` the word `"shared"`,
# `"independent"` or `"isotropic"`. The characteristic functions
# $\E e^{i \langle u, \xi \rangle}$, at $u \in \R^d$, are
#
# ```{math}
# :label: eq-tails-kinds
# \text{I: } e^{-|u_1 + \dots + u_d|^\alpha}, \qquad
# \text{II: } e^{-(|u_1|^\alpha + \dots + |u_d|^\alpha)}, \qquad
# \text{III: } e^{-\lVert u \rVert^\alpha}.
# ```
#
# The first two come from {eq}`eq-tails-cf`: in type I, $\langle u, \xi \rangle = \zeta \sum_j u_j$;
# in type II the factors multiply. If $u$ lies on axis $j$, all three are $e^{-|u_j|^\alpha}$:
# the coordinates are $\S(\alpha)\S(1)$ in each kind, and only their dependence differs. At
# $\alpha = 2$, types II and III have the same Gaussian law.
#
# ### How type III is made
#
# A variable $A > 0$ is **standard positive $(\alpha/2)$-stable** if $\E e^{-sA} = e^{-s^{\alpha/2}}$
# for all $s \ge 0$. It exists for $\alpha \le 2$, and is the constant 1 at $\alpha = 2$
# {cite:p}`kanter1975`. Take it independent of a standard Gaussian vector $G$ in $\R^d$, and set
#
# ```{math}
# :label: eq-tails-isotropic
# \xi = \sqrt{2A}\; G.
# ```
#
# *Then $\xi$ is of type III.* Given $A$, the number $\langle u, \xi \rangle$ is
# $N(0, 2A \lVert u \rVert^2)$, so that
#
# $$
# \E e^{i \langle u, \xi \rangle} = \E\, \E\bigl[e^{i \langle u, \xi \rangle} \,\big|\, A\bigr]
# = \E e^{-\frac12 \cdot 2A \lVert u \rVert^2}
# = e^{-(\lVert u \rVert^2)^{\alpha/2}} = e^{-\lVert u \rVert^\alpha}. \qquad \blacksquare
# $$
#
# The factor 2 meets the $\frac12$ of the Gaussian. Without it the vector would be smaller by
# the factor $\sqrt 2$, and at $\alpha = 2$ its coordinates $N(0, 1)$ instead of $N(0, 2)$.

# %%
alpha = 1.75
kinds = ["shared", "independent", "isotropic"]
plane = {
    kind: heavytail.noise_vectors(
        kind, alpha, 300_000, 2, generator=seeded(0)
    )
    for kind in kinds
}


def cf(kind, u):
    """Return E exp(i<u, xi>) for u of shape (..., d)."""
    if kind == "shared":
        return torch.exp(-(u.sum(-1).abs() ** alpha))
    if kind == "independent":
        return torch.exp(-(u.abs() ** alpha).sum(-1))
    return torch.exp(-(u.norm(dim=-1) ** alpha))


# %%
print("     u              I              II             III")
for u in ((1.0, 0.0), (0.7, 0.7), (1.0, -1.0), (0.3, -0.8)):
    u = torch.tensor(u)
    row = []
    for kind in kinds:
        found = float((plane[kind] @ u).cos().mean())
        exact = float(cf(kind, u))
        row.append(f"{found:.3f} ({exact:.3f})")
        # Standard error at most 1/sqrt(300,000) = 0.0018.
        assert abs(found - exact) < 0.008
    print(f"({u[0]:.1f}, {u[1]:4.1f})   {'   '.join(row)}")

# %% [markdown]
# Each entry is the mean of $\cos \langle u, \xi \rangle$ over 300,000 vectors in the plane, with the
# formula in brackets. In the direction $(1, -1)$, type I does not move at all.

# %% mystnb={"figure": {"caption": "Above: 20,000 noise vectors in the plane of each kind, \u03b1 = 1.75 (a few lie outside the frame). Below: level lines of their characteristic functions. Near the origin, types II and III look alike. The large vectors tell them apart: on the diagonal for type I, along the axes for type II, in every direction for type III.", "name": "fig-kinds"}, "image": {"alt": "Three scatter plots above three contour plots. Type I: all points on the diagonal; contours are parallel lines across it. Type II: a round cloud with four arms along the axes; contours are circles drawn out a little along the axes. Type III: a round cloud with large points in all directions; contours are circles."}} tags=["hide-input"]
fig, axes = plt.subplots(2, 3, figsize=(7, 4.6))
side = torch.linspace(-2, 2, 201)
grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1)
for (top, bottom), kind in zip(axes.T, kinds, strict=True):
    color = plots.KIND_STYLES[kind]["color"]
    points = plane[kind][:20_000].T
    dots = {"s": 4, "linewidths": 0, "alpha": 0.6}
    top.scatter(*points, color=color, rasterized=True, **dots)
    top.set(xlim=(-60, 60), ylim=(-60, 60), aspect="equal")
    top.set(xticks=[-50, 0, 50], yticks=[-50, 0, 50])
    top.set_axisbelow(True)
    top.set_title(plots.KIND_LABELS[kind], fontsize=10)
    levels = [0.1, 0.3, 0.5, 0.7, 0.9]
    lines = {"levels": levels, "colors": color, "linewidths": 1.2}
    bottom.contour(side, side, cf(kind, grid), **lines)
    bottom.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal")
    bottom.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
axes[0, 0].set_ylabel("vectors ξ")
axes[1, 0].set_ylabel("levels in u")
plt.show()

# %% [markdown]
# ### The norm
#
# What pruning looks at is the norm. For $\alpha < 2$ all three kinds have a power law,
# $\P(\lVert \xi \rVert > r) \sim c\, r^{-\alpha}$ as $r \to \infty$, with
#
# ```{math}
# :label: eq-tails-norm
# c_{\text{I}} = d^{\alpha/2}\, C_\alpha, \qquad
# c_{\text{II}} = d\, C_\alpha, \qquad
# c_{\text{III}} = \frac{2^\alpha\, \Gamma\bigl(\frac{d + \alpha}{2}\bigr)}
# {\Gamma\bigl(\frac d2\bigr)\, \Gamma\bigl(1 - \frac\alpha2\bigr)}.
# ```
#
# - *Type I.* $\lVert \xi \rVert = \sqrt d\, |\zeta|$.
# - *Type II.* The norm is large when one coordinate is, and there are $d$ of them. That two are
#   large together has a probability of the order of $r^{-2\alpha}$.
# - *Type III.* $\P(A > x) \sim x^{-\alpha/2} / \Gamma(1 - \alpha/2)$ {cite:p}`nolan2020`, and
#   $\lVert \xi \rVert > r$ means $A > r^2 / (2 \lVert G \rVert^2)$. So
#   $c_{\text{III}} = 2^{\alpha/2}\, \E \lVert G \rVert^\alpha / \Gamma(1 - \alpha/2)$, and
#   $\E \lVert G \rVert^\alpha = 2^{\alpha/2}\, \Gamma(\frac{d + \alpha}{2}) / \Gamma(\frac d2)$.


# %%
def norm_constant(kind, d):
    C = heavytail.tail_constant(alpha)
    if kind == "shared":
        return d ** (alpha / 2) * C
    if kind == "independent":
        return d * C
    gammas = math.lgamma((d + alpha) / 2) - math.lgamma(d / 2)
    return 2**alpha * math.exp(gammas) / math.gamma(1 - alpha / 2)


for kind in kinds:
    r = (norm_constant(kind, 2) / 1e-3) ** (1 / alpha)
    found = float((plane[kind].norm(dim=1) > r).double().mean()) / 1e-3
    c = "  ".join(f"{norm_constant(kind, d):6.2f}" for d in (1, 2, 64))
    label = plots.KIND_LABELS[kind]
    print(f"{label:16} c = {c}   found / formula {found:.1f}")
    # 300 vectors lie beyond r, so 6 % standard error; the power law
    # itself is 2 % off at this r.
    assert abs(found - 1) < 0.25
    # In one dimension the three kinds are the same law.
    assert math.isclose(
        norm_constant(kind, 1), norm_constant("shared", 1)
    )

# %% [markdown]
# The three numbers after $c$ are for $d = 1$, 2 and 64; the last compares with the vectors in the
# plane, at the $r$ beyond which the formula puts one in a thousand. In one dimension the
# kinds agree, as they must. As $d$ grows, types I and III gain like $d^{\alpha/2}$: one number
# multiplies a vector of length about $\sqrt d$. Type II gains like $d$, which is more: each of the
# $d$ coordinates has a chance of its own to be large.
#
# ### What it does to a column
#
# Take columns as long as those of [](01_one_page.ipynb), $d = 64$. Order 10,000 noise vectors by
# norm, and ask of each how much of its squared norm lies in its largest coordinate,
# $\max_j \xi_j^2 / \lVert \xi \rVert^2$. If all coordinates are equal, that is $1/64$.

# %%
d = 64
concentration, slant = {}, {}
for kind in kinds:
    xi = heavytail.noise_vectors(
        kind, alpha, 10_000, d, generator=seeded(1)
    )
    norms = xi.norm(dim=1)
    xi = xi[norms.argsort(descending=True)]
    norms = norms.sort(descending=True).values
    concentration[kind] = xi.square().amax(1) / norms.square()
    slant[kind] = xi.sum(1).abs() / (d**0.5 * norms)  # |cosine|

# %% mystnb={"figure": {"caption": "Share of the largest coordinate in the squared norm, for 10,000 noise vectors in 64 dimensions, against their rank (1 is the longest). Lines: medians over ranks nearby; bands: the middle 80 %. The longest vectors of type II are one coordinate and little else; in types I and III length tells nothing about direction.", "name": "fig-largest-coordinate"}, "image": {"alt": "Three curves against the rank of the vector on a logarithmic axis. Type I is flat at one sixty-fourth, type III nearly flat at about a tenth. Type II lies near 1 for the longest vectors and falls to little more than a tenth for the shortest."}} tags=["hide-input"]
edges = torch.logspace(0, 4, 13).round().long()
fig, ax = plt.subplots()
for kind in kinds:
    style = plots.KIND_STYLES[kind]
    middle, low, high, at = [], [], [], []
    for a, b in pairwise(edges):
        part = concentration[kind][a - 1 : b]
        middle.append(part.median())
        low.append(part.quantile(0.1))
        high.append(part.quantile(0.9))
        at.append((float(a) * float(b)) ** 0.5)
    ax.semilogx(at, middle, label=plots.KIND_LABELS[kind], **style)
    ax.fill_between(at, low, high, color=style["color"], alpha=0.15)
ax.set_ylim(0, 1.02)
ax.set_xlabel("rank of the vector by norm")
ax.set_ylabel("share of the largest coordinate")
ax.legend(loc="upper right")
plt.show()

# %%
print(
    "the longest 1 %:    largest coordinate   |cosine| to (1, ..., 1)"
)
top = {}
for kind in kinds:
    top[kind] = float(concentration[kind][:100].median())
    cosine = float(slant[kind][:100].median())
    label = plots.KIND_LABELS[kind]
    print(f"{label:16} {top[kind]:14.2f} {cosine:18.2f}")
assert math.isclose(top["shared"], 1 / 64)  # all coordinates equal
assert top["independent"] > 0.8
# As for a Gaussian vector: simulation gives 0.10, with a standard
# error of 0.003 in the median of 100.
assert abs(top["isotropic"] - 0.10) < 0.02
everyone = {k: float(concentration[k].median()) for k in kinds}
print(f"type II, all vectors: {everyone['independent']:.2f}")
# Its typical vector is twice as uneven as a Gaussian one.
assert everyone["independent"] > 1.5 * everyone["isotropic"]

# %% [markdown]
# So a jump does three different things to a hidden unit with incoming weights $W_i$ and input $x$,
# which answers to $\langle W_i, x \rangle$:
#
# - **Type I** moves the column along the diagonal: every incoming weight changes by the same
#   number $\zeta$. The unit now answers to the *sum* of its inputs, and if the inputs sum to
#   zero, it does not notice.
# - **Type II** moves a column, when the jump is large, along one axis: the
#   unit now answers mostly to *one* input.
# - **Type III** moves it in a uniformly random direction: the unit answers to a random
#   combination of all inputs.
#
# (The cosine with the diagonal is 1 for type I, and 1/8 for an axis; for a random direction its
# median is 0.08, here, of a hundred, a little less.) The norm, and with it the order in which pruning removes columns, does not see the
# direction. The network may.
#
# ## Takeaway

# %% tags=["remove-input"]
one, two, three = (f"{100 * top[kind]:.1f}" for kind in kinds)
part = {alpha: f"{100 * share[alpha][6]:.0f}" for alpha in share}
takeaway = f"""
> **Takeaway.** Below α = 2 one term counts: in the median sample, the
> largest of 1000 squares carries {part[1.75]} % of their sum at
> α = 1.75 and {part[1.2]} % at 1.2, against {part[2.0]} % for the
> Gaussian. Close to 2 the tail hides: at α = 1.9 the power law begins
> at x = {start[1.9]:.1f}, and {in_thousand[1.9]:.1f} draws of 1000 lie
> beyond. Jumps have directions: in 64 dimensions the largest coordinate
> of the longest noise vectors has {two} % of the squared norm for type
> II, {three} % for type III and {one} % for type I, in the median.
"""
display(Markdown(takeaway))

# %% [markdown]
# ## Exercises
#
# **1. Why does $\alpha$ stop at 2?** Show that $e^{-|u|^\alpha}$ is no characteristic function for
# $\alpha > 2$, by the variance that it would have; and look at the "density"
# $\frac1\pi \int_0^\infty \cos(ux)\, e^{-u^3}\, du$ that it would have at $\alpha = 3$.
#
# ```{admonition} Solution
# :class: dropdown
# If $X$ had this characteristic function $\varphi$, then, since $2 (1 - \cos t)/t^2 \to 1$ as
# $t \to 0$, Fatou's lemma would give
#
# $$ \E X^2 \le \liminf_{u \to 0} \frac{2\, (1 - \varphi(u))}{u^2} = 0 \qquad (\alpha > 2). $$
#
# So $X = 0$, whose characteristic function is the constant 1: a contradiction. The "density" at
# $\alpha = 3$ is negative in places, as the cell shows.
# ```

# %% tags=["hide-cell"]
u = torch.linspace(0, 5, 5001)  # exp(-125) is nothing
x = torch.linspace(0, 6, 121)
integrand = torch.cos(u * x[:, None]) * torch.exp(-(u**3))
density = torch.trapezoid(integrand, u) / math.pi
lowest = int(density.argmin())
print(f"'density' {density[lowest]:.3f} at x = {x[lowest]:.1f}")
assert density[lowest] < -0.001  # the rule is good to 1e-6

# %% [markdown]
# **2. A straight line through too little.** Apply Hill's estimator {eq}`eq-tails-hill` with $k = 50$
# to samples of 1000 draws, as many as a layer has columns, with $\alpha = 1.2$, 1.75 and 1.9. What
# does it say, and why?

# %% tags=["hide-cell"]
hill = {}
for alpha in (1.2, 1.75, 1.9):
    samples = tails[alpha].view(1000, 1000).abs()
    top_51 = samples.topk(51, dim=1).values
    logs = (top_51[:, :50] / top_51[:, 50:]).log()
    hill[alpha] = float((50 / logs.sum(1)).median())
    print(f"α = {alpha:4}: Hill's estimate {hill[alpha]:.1f}")
# Each estimate scatters by 1/sqrt(50) = 14 %, their median over 1000
# samples by less than 1 %.
assert 1.1 < hill[1.2] < 1.5
assert hill[1.75] > 2
assert hill[1.9] > 3

# %% [markdown]
# ```{admonition} Why
# :class: dropdown
# The 50 largest of 1000 draws begin at the quantile of 95 %. At 1.75 and 1.9 the power law begins
# farther out: the estimator measures the steep flank of the body, and reports a finite variance
# that is not there.
# ```
#
# **3. The sum in units of its largest term.** Show that the mean of
# $(X_1^2 + \dots + X_n^2) / \max_i X_i^2$, one over the share {eq}`eq-tails-share`, tends to
# $2 / (2 - \alpha)$ for $\alpha < 2$. (Take the tail of $X^2$ to be exactly $x^{-a}$ for
# $x \ge 1$, with $a = \alpha/2 < 1$.) Check it for $\alpha = 1.2$ and 1.
#
# ```{admonition} Solution
# :class: dropdown
# Given that the maximum is $m$, the other $n - 1$ terms are independent, with the law
# of $X^2$ below $m$. The mean of each, divided by $m$, is
#
# $$
# \frac{1}{m\,(1 - m^{-a})} \int_1^m x \cdot a x^{-a - 1}\, dx
# = \frac{a}{1 - a} \cdot \frac{m^{-a} - m^{-1}}{1 - m^{-a}} .
# $$
#
# Now $U = m^{-a}$ is the least of $n$ uniform numbers, of density $n (1 - u)^{n - 1}$. In the mean
# the other terms add $\frac{a}{1 - a}\, (n - 1)\, \E \frac{U - U^{1/a}}{1 - U}$. Here
# $(n - 1)\, \E \frac{U}{1 - U} = 1$ exactly, and the rest is of order $n^{1 - 1/a} \to 0$. So the
# sum tends to $1 + a/(1 - a) = 1/(1 - a) = 2/(2 - \alpha)$.
# ```

# %% tags=["hide-cell"]
for alpha in (1.2, 1.0):
    multiple = float((1 / shares(draws[alpha], 1000)).mean())
    limit = 2 / (2 - alpha)
    print(f"α = {alpha}: {multiple:.2f}, in the limit {limit:.2f}")
    # Standard error of a mean over 1000 blocks: 0.03 to 0.04.
    assert abs(multiple - limit) < 0.15

# %% [markdown]
# *Reference:* [](api/laws.md), [](api/noise.md).
