"""From random bits to draws: in blocks, by a pure function of an angle and a uniform.

On a CPU a block stays in the cache, in memory that is taken once, and on one thread. Elsewhere
the map is compiled: a draw reads its random words, writes its result and touches no memory between.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial

import torch
from torch import Tensor

from heavytail import _check

# Bytes of a block of draws: long enough to make the cost of calls small, short enough for the eight
# of them that a block needs to stay in the cache.
_BLOCK = 1 << 19

# The bits of this many draws lie together, first all angles, then all uniforms: whole rows convert
# faster than pairs, and a draw still begins like a longer one.
ROW = 1 << 9

# Elsewhere a block only bounds the memory that its words take.
_DEVICE_BLOCK = 1 << 24

_HALF_PI = math.pi / 2


def draw(
    transform: Callable[..., Tensor],
    parameters: tuple[float | Tensor, ...],
    size: int | Sequence[int],
    generator: torch.Generator | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """Fill a tensor of shape ``size`` with transformed uniforms, block by block.

    ``transform`` takes the parameters, of which tensors broadcast to ``size``, the angle and the
    uniform. On a CPU it runs as it stands, in blocks that stay in the cache; elsewhere it is
    compiled, so that a draw reads its random words and writes its results and touches no memory
    between.
    """
    device, dtype = _check.place(generator, device, dtype)
    size = _check.shape("size", size)
    out = torch.empty(size, dtype=dtype, device=device)
    flat = out.view(-1)
    fill(flat, transform, parameters, size, generator, Room(flat))
    return out


def block_length(device: torch.device, dtype: torch.dtype) -> int:
    """Return how many draws are made at a time."""
    return _BLOCK // dtype.itemsize if device.type == "cpu" else _DEVICE_BLOCK


class Room:
    """The memory that drawing needs, to be taken once: fresh pages cost as much as a sine.

    Attributes:
        block: how many draws are made at a time.
        words: their random bits, integers, (rows, 2, ROW).
        pair: on a CPU, their angles and uniforms, (2, rows ROW).
        scratch: on a CPU, room for the maps, (3, rows ROW).
    """

    def __init__(self, like: Tensor) -> None:
        self.block = block_length(like.device, like.dtype)
        self.words = empty_words(like[: self.block])
        columns = self.words.shape[0] * ROW if like.device.type == "cpu" else 0
        self.pair, self.scratch = like.new_empty((5, columns)).split([2, 3])

    def first(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the words, pair and scratch of the first n draws, in whole rows."""
        rows = rows_of(n)
        if rows == len(self.words):  # nearly always; views take time too
            return self.words, self.pair, self.scratch
        columns = rows * ROW
        return self.words[:rows], self.pair[:, :columns], self.scratch[:, :columns]


def fill(
    flat: Tensor,
    transform: Callable[..., Tensor],
    parameters: tuple[float | Tensor, ...],
    size: torch.Size,
    generator: torch.Generator | None,
    room: Room,
) -> None:
    """Fill a tensor, seen flat, whose shape is ``size``."""
    on_cpu = flat.device.type == "cpu"
    plain = all(isinstance(value, float) for value in parameters)
    with _one_thread() if on_cpu else nullcontext():
        for start in range(0, flat.numel(), room.block):
            piece = flat[start : start + room.block]
            n = len(piece)
            words, pair, scratch = room.first(n)
            redraw(words, generator)
            if on_cpu and plain:
                angle, uniform = uniforms_from_words(words, out=pair)
                draws = transform(*parameters, angle, uniform, scratch=scratch)
                piece.copy_(draws if len(draws) == n else draws[:n])
            else:
                values = [_piece(value, size, piece, start, room.block) for value in parameters]
                fused = partial(_from_words, transform) if on_cpu else compiled(transform)
                piece.copy_(fused(words, n, *values))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: a block is too short to share.

    Torch would cut each sine and logarithm of a block in two. Threads that meet so often wait for
    each other, tenfold where another process holds a core; and bits would depend on the cut.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _piece(
    value: float | Tensor, size: torch.Size, out: Tensor, start: int, block: int
) -> float | Tensor:
    """Return a parameter for the draws start, start + 1, ..., start + block - 1."""
    if isinstance(value, Tensor):
        value = value.to(out.device)
        return value if value.dim() == 0 else value.expand(size).reshape(-1)[start : start + block]
    # A compiled function is compiled anew for each float, but not for each value of a tensor.
    return value if out.device.type == "cpu" else torch.full((), value).to(out)


def empty_words(like: Tensor) -> Tensor:
    """Return room for the random bits of as many draws: integers, (rows, 2, ROW)."""
    integer = torch.int32 if like.dtype == torch.float32 else torch.int64
    return torch.empty((rows_of(len(like)), 2, ROW), dtype=integer, device=like.device)


def rows_of(n: int) -> int:
    """Return how many rows the words of n draws take."""
    return -(-n // ROW)


def redraw(words: Tensor, generator: torch.Generator | None) -> Tensor:
    """Fill words with random bits."""
    words.view(torch.int64).random_(-(2**63), None, generator=generator)  # the cheapest way
    return words


def _from_words(
    transform: Callable[..., Tensor], words: Tensor, n: int, *parameters: float | Tensor
) -> Tensor:
    angle, uniform = uniforms_from_words(words)
    if any(isinstance(value, Tensor) and value.dim() for value in parameters):
        return transform(*parameters, angle[:n], uniform[:n])
    # Vector instructions may round otherwise than what finishes a broken row does.
    return transform(*parameters, angle, uniform)[:n]


def uniforms(like: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw an angle and a uniform for each entry of ``like``, which must be one-dimensional."""
    angle, uniform = uniforms_from_words(redraw(empty_words(like), generator))
    return angle[: len(like)], uniform[: len(like)]


def uniforms_from_words(words: Tensor, *, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Make an angle in [-pi/2, pi/2] without 0, and a uniform in (0, 1), each precise near 0.

    Args:
        words: shape (rows, 2, k), all bits random: int32 for float32 results, int64 for float64.
        out: where to put the two, shape (2, rows k), of the results' dtype; None makes room.

    Returns:
        angle, uniform: shape (rows k,), from words[:, 0] and words[:, 1]; the inputs of the maps,
        of 31 or 63 bits beside the sign. The uniform stays below 1 by one rounding unit.
    """
    if words.dtype == torch.int32:
        dtype, grid, below_one = torch.float32, 2.0**31, 1 - 2.0**-24
    else:
        dtype, grid, below_one = torch.float64, 2.0**63, 1 - 2.0**-53
    if out is None:
        angle, uniform = (half.to(dtype).view(-1) for half in words.unbind(1))
    else:
        out.view(2, len(words), -1).copy_(words.transpose(0, 1))
        angle, uniform = out.unbind()
    # The halves centre the grid: it is symmetric about 0 and does not contain it.
    for bits, unit in ((angle, _HALF_PI / grid), (uniform, below_one / grid)):
        torch.add(bits.new_full((), unit / 2), bits, alpha=unit, out=bits)
    return angle, uniform.abs_()


@cache
def compiled(transform: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the map from words to draws as one kernel, or as it stands where nothing compiles."""
    eager = partial(_from_words, transform)
    kernel = torch.compile(eager, dynamic=True)
    broken = False

    def run(words: Tensor, n: int, *parameters: Tensor) -> Tensor:
        nonlocal broken
        if not broken:
            try:
                return kernel(words, n, *parameters)
            except Exception as failure:  # whatever a compiler, or its absence, may raise
                broken = True
                warnings.warn(
                    f"stable draws on {words.device.type} are not compiled and slower: {failure}",
                    stacklevel=2,
                )
        return eager(words, n, *parameters)

    return run
