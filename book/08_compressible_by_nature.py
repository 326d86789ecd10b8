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
# # Compressible by nature
#
# *Nobody asked the noise to make the matrix sparse. Why do a few columns carry it?*
#
# The paper answers with a limit: as the width grows, the error of pruning to any fraction tends to
# 0. This page finds the *whole law* of that error, from a short proof, and lays measured quantiles
# over it, for widths from a hundred to a million. It runs in about half a minute.

# %% tags=["remove-cell"]
# On Colab, install the package; elsewhere, do nothing.
import sys

if "google.colab" in sys.modules:
    print("No public address yet: install heavytail by hand.")

# %%
import math

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display

import heavytail
from heavytail import ColumnLaw, plots, pruning_error_law
from helpers import seeded, show_table

plots.use_style()
torch.set_default_dtype(torch.float64)
ORANGE, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"


# %% [markdown]
# ## The picture
#
# Ten thousand independent columns with standard stable coordinates, sorted by length. How much of
# the matrix, that is of its squared Frobenius norm, do the longest carry?

# %% mystnb={"figure": {"caption": "Share of the squared norm of a matrix that its longest columns carry, for 10,000 random columns of one coordinate; one draw for each \u03b1. With Gaussian entries 44 % of the columns are needed for nine tenths of it; with \u03b1 = 1.2, in this draw, eight are enough.", "name": "fig-lorenz"}, "image": {"alt": "Four rising curves over a logarithmic axis, the fraction of columns from 1/10,000 to 1. That for alpha 1.2 begins near 0.5 at the first column; those for 1.5 and 1.75 follow; the Gaussian one stays near 0 until a hundredth of the columns."}} tags=["hide-input"]
n = 10_000
fraction = torch.arange(1, n + 1) / n
fig, ax = plt.subplots(figsize=(5.5, 3.2))
needed = {}
for alpha, color in (
    (1.2, ORANGE),
    (1.5, BLUE),
    (1.75, GREEN),
    (2.0, "black"),
):
    x = heavytail.symmetric_stable(alpha, n, generator=seeded(5))
    share = x.square().sort(descending=True).values.cumsum(0)
    share = share / share[-1]
    needed[alpha] = int((share < 0.9).sum()) + 1
    ax.semilogx(fraction, share, color=color, label=f"α = {alpha:g}")
ax.axhline(0.9, color="0.7", linewidth=0.8)
ax.set(xlabel="fraction of columns", ylabel="share of the squared norm")
ax.legend()
plt.show()
listed = ", ".join(f"{k} at α = {a:g}" for a, k in needed.items())
print(f"columns for nine tenths:\n{listed}")
assert needed[1.2] < needed[1.5] < needed[1.75] < needed[2.0]

# %% [markdown]
# ```{admonition} The paper's claim
# :class: note
# For every kept fraction $\kappa$ and every $\varepsilon > 0$ there is an $N$ such that, for
# $n \ge N$ and $\eta \le n^{-\alpha/2 - 1}$, with probability at least $1 - \varepsilon$ the relative
# error of keeping the $\kappa n$ longest columns is at most $\varepsilon$ {cite:p}`wan2024`. (We
# write $1 - \delta$ for the probability, to keep the two apart.)
# ```
#
# ## How few columns carry it
#
# Before the law of the error, a simpler question. Give each column its share of the squared norm,
# $s_i = R_i^2 / \sum_j R_j^2$. If all shares are equal, $\sum_i s_i^2 = 1/n$; if one column has
# everything, it is 1.
#
# ````{prf:proposition} Concentration
# :label: prop-effective
# Let $R_1, R_2, \dots > 0$ be independent with one law, $\P(R > r) \sim c\, r^{-\alpha}$,
# $0 < \alpha < 2$. Then $\E \sum_{i \le n} s_i^2 \to 1 - \alpha/2$ as $n \to \infty$.
# ````
#
# ````{prf:proof}
# Write $a = \alpha/2$, $Z = R^2$ and $\varphi(\lambda) = \E e^{-\lambda Z}$. Then
# $1 - \varphi(\lambda) = \lambda \int_0^\infty e^{-\lambda z}\, \P(Z > z)\, dz \sim
# c\, \Gamma(1 - a)\, \lambda^a$ as $\lambda \to 0$, and in the same way
# $\E[Z^2 e^{-\lambda Z}] \sim c\, a\, \Gamma(2 - a)\, \lambda^{a - 2}$. Since
# $1/S^2 = \int_0^\infty \lambda e^{-\lambda S}\, d\lambda$,
#
# $$ \E \sum_i s_i^2 = n \int_0^\infty \lambda\, \E[Z^2 e^{-\lambda Z}]\, \varphi(\lambda)^{n-1}\,
# d\lambda . $$
#
# Substitute $\lambda = n^{-1/a} u$. The integrand tends to
# $c\, a\, \Gamma(2 - a)\, u^{a - 1} \exp(-c\, \Gamma(1 - a)\, u^a)$. For $\lambda$ up to some
# $\lambda_0$ it is bounded by a multiple of $u^{a - 1} e^{-c' u^a}$, since
# $1 - \varphi(\lambda) \ge c' \lambda^a$ there; the rest of the integral is at most
# $n\, \varphi(\lambda_0)^{n-1} \int_0^\infty \lambda\, \E[Z^2 e^{-\lambda Z}]\, d\lambda =
# n\, \varphi(\lambda_0)^{n-1} \to 0$. With $v = c\, \Gamma(1 - a)\, u^a$ the limit is
# $\frac{\Gamma(2 - a)}{\Gamma(1 - a)} \int_0^\infty e^{-v}\, dv = 1 - a$.
# ````
#
# So the squared norm is as concentrated, in the mean, as if $1/(1 - \alpha/2)$ equal columns made
# it, 8 at $\alpha = 1.75$, and more columns do not dilute it. It does not mean that 8 columns suffice:
# in the median draw the 8 longest carry two fifths of the squared norm (exercise 2). (The shares, in
# falling order, converge in law, to what is known as the Poisson–Dirichlet law
# {cite:p}`pitman1997`.)

# %%
rows = []
for alpha in (1.2, 1.5, 1.75, 1.9):
    cells = [f"{alpha:g}", f"{1 - alpha / 2:.3f}"]
    for n in (100, 10_000):
        x = heavytail.symmetric_stable(
            alpha, (3000, n), generator=seeded(1)
        )
        s = x.square() / x.square().sum(1, keepdim=True)
        concentration = s.square().sum(1)
        mean = float(concentration.mean())
        stderr = float(concentration.std()) / 3000**0.5
        cells.append(f"{mean:.3f} ± {stderr:.3f}")
    rows.append(cells)
    assert abs(mean - (1 - alpha / 2)) < 4 * stderr + 0.01
show_table(["α", "1 − α/2", "sum of s², n = 100", "n = 10,000"], rows)

# %% [markdown]
# ## The law of the pruning error
#
# Keep the $k = \mathrm{round}(\kappa n)$ longest of $n$ columns. The relative error is
#
# ```{math}
# :label: eq-pruning-error
# \varepsilon_n(\kappa) = \biggl( \frac{\sum_{\text{dropped}} R_i^2}{\sum_{\text{all}} R_i^2}
# \biggr)^{1/2} .
# ```
#
# Above the bar stand the many small columns, below it the few large ones. The small obey the law
# of large numbers. The large do not.
#
# ````{prf:theorem} The law of the pruning error
# :label: thm-pruning-law
# Let $R_1, R_2, \dots$ be independent with one law, $\P(R > r) \sim c\, r^{-\alpha}$,
# $0 < \alpha < 2$, let $q$ be the quantile function of $R$, and $0 < \kappa < 1$. Then, in law,
#
# $$
# \begin{gathered}
# n^{1/\alpha - 1/2}\, \varepsilon_n(\kappa) \;\to\; \sqrt{ \frac{m(\kappa)}{K A} }, \\
# m(\kappa) = \int_0^{1 - \kappa} q(u)^2\, du, \qquad
# K = \bigl( c\, \Gamma(1 - \alpha/2) \bigr)^{2/\alpha} ,
# \end{gathered}
# $$
#
# where $A$ is standard positive $(\alpha/2)$-stable: $\E e^{-sA} = \exp(-s^{\alpha/2})$.
# ````
#
# ````{prf:proof}
# *Above the bar.* Let $q_n$ be the quantile function of the $n$ norms. Then
# $\frac1n \sum_{\text{dropped}} R_i^2 = \int_0^{1 - k/n} q_n(u)^2\, du$. With probability 1,
# $q_n \to q$ where $q$ is continuous, that is at all but countably many $u$, and $q_n(u)$ stays
# bounded for $u \le 1 - \kappa + h$ with a small $h > 0$. By dominated convergence the integral
# tends to $m(\kappa)$.
#
# *Below the bar.* As in the proof before,
# $1 - \E e^{-\lambda R^2} \sim c\, \Gamma(1 - \alpha/2)\, \lambda^{\alpha/2}$. With
# $\lambda = s\, n^{-2/\alpha}$,
#
# $$
# \begin{aligned}
# \E \exp\Bigl( -s\, n^{-2/\alpha} \sum_{i \le n} R_i^2 \Bigr) &= \Bigl( 1 -
# \frac{c\, \Gamma(1 - \alpha/2)\, s^{\alpha/2} + o(1)}{n} \Bigr)^n \\
# &\to \exp\bigl( -(K s)^{\alpha/2} \bigr) = \E e^{-s K A} ,
# \end{aligned}
# $$
#
# so $n^{-2/\alpha} \sum R_i^2 \to K A$ in law.
#
# *Together.* One factor has a constant limit, so the quotient converges in law (Slutsky), to
# $m(\kappa) / (K A)$ after division by $n^{1 - 2/\alpha}$; $A > 0$, and the root is continuous.
# ````
#
# For independent columns the paper's claim follows, with a rate: the error falls like
# $n^{-(1/\alpha - 1/2)}$. It stays random however wide the network is. Are trained columns near
# enough to independent ones?
#
# ````{prf:corollary} Trained columns
# :label: cor-trained-columns
# Let the neurons and the loss be as in {prf:ref}`thm-chaos`, $0 < \alpha < 2$, and
# $\P(|\theta_0| > r) = o(r^{-\alpha})$. Run the scheme {eq}`eq-euler`, gradient descent with noise of
# type I, II or III, to a time $t$ with *any* fixed step size. Then {prf:ref}`thm-pruning-law` holds
# for its columns as $n \to \infty$. There $R$ is the norm of a column of the scheme's own limit,
# which has the mean of $h_x(\theta_k)$ in the place of $f_n$, and $c = \sigma^\alpha t\,
# c_{\text{kind}}$.
# ````
#
# ````{prf:proof}
# *The copies.* The proof of {prf:ref}`thm-chaos`, with sums for integrals, gives independent copies
# of that limit with $\E \max_i |\theta^i - \theta^i_\infty| \le C\, n^{-1/2}$. The drift moves a copy
# by at most $t \sup |b|$. The rest is $\theta_0$ plus noise of the law of $\sigma t^{1/\alpha} \xi$.
# So $\P(R > r) \sim c\, r^{-\alpha}$, and the theorem holds for the copies.
#
# *The columns.* What pruning drops has the least norm $D$ among all choices of $n - k$ columns. The
# norm of each choice changes by at most the change of the matrix, so $D$ does too. From copies to
# columns the matrix changes by at most $\sqrt n \max_i |\theta^i - \theta^i_\infty|$, of mean at most
# $C$. But $D / \sqrt n \to \sqrt{m(\kappa)}$, and the norm of the whole is of order $n^{1/\alpha}$.
# The change is lost in both.
# ````
#
# So for such neurons compressibility needs no condition on the step size at all. (With minibatches
# the same holds given the batches. ReLU is neither bounded nor smooth; for it the law is tested, not
# proved.) The law is `heavytail.pruning_error_law`. Against it, measured errors of independent
# columns:

# %%
alpha, keep = 1.5, 0.1
levels = torch.tensor([0.1, 0.5, 0.9])
widths = [100, 1000, 10_000, 100_000, 1_000_000]
repetitions = [20_000, 5000, 2000, 400, 60]


def errors_of(squares, keep):
    """Return the pruning error of each row of squared norms."""
    n = squares.shape[-1]
    low = squares.sort(-1).values[..., : n - round(keep * n)]
    return (low.sum(-1) / squares.sum(-1)).sqrt()


generator = seeded(8)
measured, predicted, medians = [], [], []
for n, repeat in zip(widths, repetitions, strict=True):
    rows_at_once = max(1, 2_000_000 // n)
    errors = []
    while sum(len(part) for part in errors) < repeat:
        x = heavytail.symmetric_stable(
            alpha, (rows_at_once, n), generator=generator
        )
        errors.append(errors_of(x.square(), keep))
    errors = torch.cat(errors)[:repeat]
    measured.append(errors.quantile(levels))
    predicted.append(pruning_error_law(alpha, keep, n).quantile(levels))
measured, predicted = torch.stack(measured), torch.stack(predicted)

# %% mystnb={"figure": {"caption": "Pruning error when a tenth of the columns is kept, \u03b1 = 1.5: measured 10, 50 and 90 % quantiles (markers) and those of the limit law (lines). Black: Gaussian columns, at any width.", "name": "fig-error-law"}, "image": {"alt": "Log-log plot of relative error against width from 100 to a million. Three parallel falling lines with markers on them; above them a horizontal black line at 0.75."}} tags=["hide-input"]
fig, ax = plt.subplots(figsize=(5.5, 3.4))
for j, (color, label) in enumerate(
    ((BLUE, "10 %"), (ORANGE, "50 %"), (GREEN, "90 %"))
):
    ax.loglog(widths, predicted[:, j], color=color)
    ax.loglog(
        widths,
        measured[:, j],
        "o",
        ms=4,
        color=color,
        label=f"{label} quantile",
    )
flat = float(pruning_error_law(2.0, keep, 100).quantile(0.5))
ax.axhline(flat, color="black", label="Gaussian")
ax.set(xlabel="width n", ylabel="relative error")
ax.legend()
plt.show()

# %%
ratio = measured / predicted
for n, row in zip(widths, ratio, strict=True):
    print(f"n = {n:>9,}: measured / law", *(f"{r:.3f}" for r in row))
print(f"Gaussian: {flat:.3f} at every width")
assert ((ratio[1:4, 1:] - 1).abs() < 0.05).all()
assert abs(float(ratio[0, 1]) - 1) < 0.05

# %% [markdown]
# From a hundred columns on the median is right to a few percent. (At a million there are 60
# repetitions only.) The lines are parallel: a hundred times the width lowers all quantiles by the
# same factor, $100^{1/\alpha - 1/2} = 2.15$. So the error does not settle on a value. Relative to its
# median it scatters as much at a million columns as at a hundred.
#
# ## Kinds of noise
#
# Only $c$ and $m(\kappa)$ tell one law of columns from another. For noise vectors of the three kinds
# $c$ is known, `heavytail.noise_tail_constant`, and $m$ is found from a large sample,
# `ColumnLaw.noisy`. At $d = 20$, with 1000 columns:

# %%
rows = []
for kind in ("shared", "independent", "isotropic"):
    for alpha in (1.5, 1.75, 1.9):
        law = ColumnLaw.noisy(
            20,
            kind=kind,
            alpha=alpha,
            scale=1.0,
            samples=200_000,
            generator=seeded(3),
        )
        xi = heavytail.noise_vectors(
            kind, alpha, 400_000, 20, generator=seeded(4)
        )
        errors = errors_of(xi.square().sum(1).view(400, 1000), 0.1)
        limit = pruning_error_law(alpha, 0.1, 1000, columns=law)
        found = errors.quantile(levels)
        exact = limit.quantile(levels)
        pair = zip(found.tolist(), exact.tolist(), strict=True)
        cells = [f"{a:.3f} / {b:.3f}" for a, b in pair]
        rows.append([plots.KIND_LABELS[kind], f"{alpha:g}", *cells])
        assert abs(float(found[1] / exact[1]) - 1) < 0.08
columns = ["noise", "α", "10 %, measured / law"]
show_table([*columns, "50 %", "90 %"], rows)

# %% [markdown]
# The medians agree to a few percent in every row. The 10 % quantile of 400 repetitions has itself a
# standard error, of 9, 6 and 3 % at $\alpha$ = 1.5, 1.75 and 1.9, and its deviations are of that size. A test of the package is sharper:
# with $10^4$ repetitions
# at $n = 1000$ and 400 to 2000 at $n = 10^5$, for all kinds and $\alpha$ from 1.2 to 1.9, no
# quantile is off by more than 2 % beyond four standard errors
# (`pytest -m long tests/test_width.py`).
#
# ## A start below the noise
#
# Trained columns are not noise alone. They had a start, and its square adds up too: like $n$, while
# the noise adds up to $n^{2/\alpha}$. At $\alpha = 1.75$ their quotient grows like $n^{0.14}$: to
# double it takes 128 times the width. What is ahead at $n = 100$ stays ahead.
#
# ````{prf:proposition} Start plus noise
# :label: prop-start-noise
# Let $1 < \alpha < 2$ and $\theta = \theta_0 + \xi$ with $\theta_0$ independent of $\xi$,
# $\E |\theta_0|^2 < \infty$, and $\E e^{i \langle u, \xi \rangle} = e^{-\psi(u)}$ with a real,
# continuous $\psi$ and $\psi(ru) = r^\alpha \psi(u)$ for $r > 0$, as for noise of types I, II and III.
# Then, as $\lambda \to 0$,
#
# $$ 1 - \E e^{-\lambda |\theta|^2} = (K \lambda)^{\alpha/2} + \lambda\, b + o(\lambda), \qquad
# K^{\alpha/2} = 2^{\alpha/2}\, \E\, \psi(G), \quad b = \E |\theta_0|^2 , $$
#
# with $G$ standard Gaussian in $\R^d$, independent of the rest.
# ````
#
# ````{prf:proof}
# For a fixed vector $v$, $e^{-\lambda |v|^2} = \E e^{i \sqrt{2\lambda} \langle G, v \rangle}$. Put
# $v = \theta$ and take the mean over $\xi$ first:
#
# $$ \E e^{-\lambda |\theta|^2} = \E\Bigl[ \cos\bigl( \sqrt{2\lambda} \langle G, \theta_0 \rangle
# \bigr)\, e^{-(2\lambda)^{\alpha/2} \psi(G)} \Bigr] . $$
#
# The second factor is $1 - (2\lambda)^{\alpha/2} \psi(G) + O(\lambda^\alpha \psi(G)^2)$, where
# $\psi(G) \le C |G|^\alpha$ has all moments, and $\lambda^\alpha = o(\lambda)$. The mean of the
# first factor is $\E e^{-\lambda |\theta_0|^2} = 1 - \lambda\, \E |\theta_0|^2 + o(\lambda)$. What
# is mixed is at most
# $(2\lambda)^{\alpha/2} \lambda\, \E[\psi(G) \langle G, \theta_0 \rangle^2] \le
# C' \lambda^{1 + \alpha/2}\, \E |\theta_0|^2 = o(\lambda)$.
# ````
#
# At $\lambda = s\, n^{-2/\alpha}$ and over $n$ columns the term with $b$ is $s\, b\, n^{1 - 2/\alpha}$,
# and what is left out is smaller. So the sum of $n$ squares is close to $n^{2/\alpha} K A + n\, b$, and
# one expects, cut at 1,
#
# ```{math}
# :label: eq-error-with-start
# \varepsilon_n(\kappa) \;\approx\; \biggl( \frac{m(\kappa)}{n^{2/\alpha - 1} K A + b}
# \biggr)^{1/2} .
# ```
#
# (This step is no theorem. It is tested below.) For noise alone $b = 0$, which is why the bare law is
# already so good at small $n$. The proposition also gives $K$ without any tail: for type II,
# $\E \psi(G) = d\, \E |G_1|^\alpha$.
#
# Take columns like those of a network on series of 140 numbers, started as torch starts them, with
# noise of type I that has acted for a time 20 at $\sigma = 0.003$:

# %%
alpha, n, d, keep = 1.75, 2000, 140, 0.1
scale = 0.003 * 20 ** (1 / alpha)


def starts(count, generator):
    out = torch.empty(count, d)
    return out.uniform_(-(d**-0.5), d**-0.5, generator=generator)


generator = seeded(6)
law = ColumnLaw.noisy(
    starts(n, generator),
    kind="shared",
    alpha=alpha,
    scale=scale,
    samples=100_000,
    generator=generator,
)
bare = ColumnLaw(alpha, law.tail, 0.0, law.norms)
errors = []
for _ in range(300):
    zeta = heavytail.symmetric_stable(
        alpha, (n, 1), generator=generator
    )
    squares = (starts(n, generator) + scale * zeta).square().sum(1)
    errors.append(errors_of(squares, keep))
found = torch.stack(errors).quantile(levels)
with_start = pruning_error_law(alpha, keep, n, columns=law)
without = pruning_error_law(alpha, keep, n, columns=bare)
rows = [
    [name, *(f"{value:.3f}" for value in values.tolist())]
    for name, values in (
        ("measured", found),
        ("law with the start", with_start.quantile(levels)),
        ("law without", without.quantile(levels)),
    )
]
show_table(["error of keeping a tenth", "10 %", "50 %", "90 %"], rows)
assert abs(float(found[1] / with_start.quantile(0.5)) - 1) < 0.03
assert float(without.quantile(0.5) / found[1]) > 1.1

# %% [markdown]
# Without the start the law puts the median above 1, where it is cut. With the start all three
# quantiles are right to a few percent.
#
# ## Takeaway

# %% tags=["remove-input"]
last = ratio[1:4, 1]
takeaway = f"""
> **Takeaway.** The pruning error of n columns falls like
> $n^{{-(1/\\alpha - 1/2)}}$ and stays random. Its whole law is known: its median is
> within {100 * float((last - 1).abs().max()):.0f} % of measured ones for
> n = 1000 to 100,000 (α = 1.5, a tenth kept). The law holds for trained
> columns of bounded smooth neurons too, at any step size. A start
> delays the fall. Gaussian columns do not compress with width: keeping
> a tenth of columns of one coordinate costs {flat:.2f} at any width.
"""
display(Markdown(takeaway))

# %% [markdown]
# ## Exercises
#
# **1. Constants without tails.** Compute $K$ for type II and type III from
# {prf:ref}`prop-start-noise`, and compare with $(c\, \Gamma(1 - \alpha/2))^{2/\alpha}$.

# %% tags=["hide-cell"]
# E|G_1|^α = 2^{α/2} Γ((α + 1)/2) / √π; for type III ψ(u) = |u|^α and
# E|G|^α = 2^{α/2} Γ((d + α)/2) / Γ(d/2).
for alpha, d in ((1.3, 5), (1.9, 20)):
    mean = 2 ** (alpha / 2) * math.gamma((alpha + 1) / 2) / math.pi**0.5
    whole = 2 ** (alpha / 2) * math.gamma((d + alpha) / 2)
    for kind, psi in (
        ("independent", d * mean),
        ("isotropic", whole / math.gamma(d / 2)),
    ):
        c = heavytail.noise_tail_constant(kind, alpha, d)
        K = (c * math.gamma(1 - alpha / 2)) ** (2 / alpha)
        assert math.isclose(K, 2 * psi ** (2 / alpha), rel_tol=1e-12)
print("the same, to twelve digits")

# %% [markdown]
# **2. The longest columns.** For $\alpha = 1.2$ and 1.75 at $n = 10^4$, measure the median share of
# the longest column, and that of the $1/(1 - \alpha/2)$ longest. (The mean square of the first is at
# most $1 - \alpha/2$ in the limit.)

# %% tags=["hide-cell"]
for alpha in (1.2, 1.75):
    x = heavytail.symmetric_stable(
        alpha, (1000, 10_000), generator=seeded(2)
    )
    share = x.square().sort(descending=True).values
    share = share / share.sum(1, keepdim=True)
    top, few = share[:, 0], round(1 / (1 - alpha / 2))
    print(f"α = {alpha}: longest {float(top.median()):.2f}", end=", ")
    median = float(share[:, :few].sum(1).median())
    print(f"the {few} longest {median:.2f}")
    assert float(top.square().mean()) < 1 - alpha / 2 + 0.02

# %% [markdown]
# **3. At the border.** For $\alpha = 2$ with a tail $\P(R > r) \sim c\, r^{-2}$ the sum of squares
# grows like $n \log n$. What does the error do? Try $R = U^{-1/2}$, $U$ uniform.

# %% tags=["hide-cell"]
# (1/n) Σ R² ≈ log n + Y with a random Y of order 1 (median 1.8), while
# the dropped part has a limit: the error falls like 1/√log n, slower
# than any power. m(κ) = log(1/κ). Y alone makes the median 11 % lower at
# 10³ and 6 % at 10⁶; of ten draws it is uncertain by some percent.
for n in (10**3, 10**6):
    u = torch.rand(max(2, 10**7 // n), n, generator=seeded(7))
    error = float(errors_of(1 / u, 0.1).median())
    limit = math.sqrt(math.log(10) / math.log(n))
    print(f"n = {n:9,}: {error:.2f}, √(log 10 / log n) = {limit:.2f}")
    assert abs(error / limit - 1) < 0.15

# %% [markdown]
# *Reference:* [](api/compression.md).
