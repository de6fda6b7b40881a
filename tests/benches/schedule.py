"""What a schedule costs at LLaVA-1.5-7B's shape, counted without a GPU: record the engine's calls,
replay them on no memory.

The engine itself runs on the CPU - windows, batches, shared heads, the decoding loop, rows that
leave - with a vision tower of the real number of patches and a backbone that records what it is
asked for and computes nothing. Each recorded pass is then replayed by the real :class:`LeanLlama`
of 7B's shape on the meta device, where every operation that would be a kernel is counted: its
floating-point operations and the bytes it reads and writes. A kernel's price is the longer of the
two on one H200; the sum of all is the least time in which *these kernels* can do the work. Nothing
here is timed; a real run adds launches, gaps between kernels, what kernels fall short of the two
rates, and the host."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine.backbone import LeanLlama, segment_ends
from harness.engine.engine import Engine
from harness.engine.kv_cache import KVCache, SharedPrefixes
from harness.models.llava import tower_features

FLOPS, BYTES = 790e12, 4.3e12
"""Of one H200: bfloat16 products and copies through PyTorch, as others measured on such a machine;
not measured here."""
LAUNCH = 5e-6
"""Seconds to launch a kernel from Python: an assumption, not a measurement."""
POSITION = 524_288
"""Bytes of keys and values a position: 2 x 32 layers x 32 heads x 128 x 2 bytes."""
RECORDED_POSITION = 4  # of the recording backbone: one layer, one head of one number, 2 x 2 bytes
WEIGHTS = 14_126_854_144
ACTIVATION = 220 * 2**10
"""Bytes a token needs while it passes a layer: hidden states, queries, keys, values, and the MLP's
four intermediate tensors."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One call of the backbone: ``rows`` x ``new`` positions behind ``start`` positions of text and
    a head of ``head`` positions, which stands in the rows themselves (``groups`` 0) or in
    ``groups`` shared copies, ``most`` rows to a copy."""

    rows: int
    new: int
    start: int
    head: int
    groups: int
    most: int
    masked: bool
    last: int
    room: int


@dataclass
class Log:
    """What a run asked of the device."""

    passes: Counter[Pass] = field(default_factory=Counter)
    looked: Counter[int] = field(
        default_factory=Counter
    )  # calls of the vision tower by number of images
    spoken: Counter[int] = field(
        default_factory=Counter
    )  # calls of the output head by number of rows
    copied: int = 0  # bytes of keys and values read and written outside of passes, at 7B
    peak: int = 0  # bytes held at once beside the weights, at 7B


class Recorder:
    """The backbone of a recording engine: hidden states of zeros."""

    shares_prefixes = True

    def __init__(self, log: Log, width: int, held: Callable[[], int]) -> None:
        self.log, self.width, self.held = log, width, held

    def allocate(self, rows: int, capacity: int) -> list[Tensor]:
        return [torch.zeros(2, rows, 1, capacity, 1, dtype=torch.bfloat16)]

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,  # noqa: ARG002
        cache: KVCache,
        start: int,
        mask: Tensor | None,
        *,
        segments: int,
    ) -> Tensor:
        rows, new, _ = x.shape
        heads = cache.shared
        groups, most = (0, 1) if heads is None else (heads.layers[0].shape[1], heads.max_rows)
        asked = Pass(
            rows=rows,
            new=new,
            start=start,
            head=cache.prefix_len,
            groups=groups,
            most=most,
            masked=mask is not None,
            last=segments,
            room=cache.capacity,
        )
        self.log.passes[asked] += 1
        kept = sum(layer.nbytes for layer in cache.layers) + (
            0 if heads is None else sum(layer.nbytes for layer in heads.layers)
        )
        used = (kept + self.held()) // RECORDED_POSITION * POSITION + rows * new * ACTIVATION
        self.log.peak = max(self.log.peak, used)
        return segment_ends(x, segments) if segments else x


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch is half typed
    """Counts the bytes that are read and written where keys and values (the only tensors of five
    axes) are copied."""

    def __init__(self, log: Log) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if (
            name in MOVES
            and isinstance(result, Tensor)
            and result.ndim >= 5
            and result.dtype == torch.bfloat16
        ):
            moved = args[2] if name == "index_put_" else result
            self.log.copied += 2 * moved.nbytes // RECORDED_POSITION * POSITION
        return result


MOVES = {
    "stack",
    "cat",
    "index_select",
    "copy_",
    "clone",
    "index",
    "index_copy_",
    "_to_copy",
    "contiguous",
    "index_put_",
}


@contextmanager
def recording(engine: Engine) -> Iterator[Log]:
    """Replace the engine's backbone by a recorder, watch its tower, head and copies, and log what
    they are asked for."""
    log = Log()
    family: Any = engine.prefix_cache.family
    decoder: Any = engine.decoder
    look, head = family.encode, decoder.lm_head

    def looked(pixels: Sequence[Tensor]) -> list[Tensor]:
        log.looked[len(pixels)] += 1
        found: list[Tensor] = look(pixels)
        return found

    def spoken(hidden: Tensor) -> Tensor:
        log.spoken[hidden.shape[0] * hidden.shape[1]] += 1
        result: Tensor = head(hidden)
        return result

    family.encode = looked
    decoder.lm_head = spoken
    decoder.text = Recorder(
        log, 0, lambda: engine.prefix_cache.prefixes.used + engine.prefix_cache.continuations.used
    )
    engine.position_bytes = RECORDED_POSITION
    with Copies(log):
        yield log
    family.encode, decoder.lm_head = look, head


@dataclass
class Cost:
    """Kernels, and seconds by what they are for."""

    kernels: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, what: str, flops: float, moved: float) -> None:
        self.kernels += 1
        self.seconds[what] += max(flops / FLOPS, moved / BYTES)

    def plus(self, other: Cost, times: int = 1) -> Cost:
        seconds = self.seconds.copy()
        for name, value in other.seconds.items():
            seconds[name] += times * value
        return Cost(self.kernels + times * other.kernels, seconds)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def size(x: Any) -> int:
    """Bytes of a tensor that memory holds: an axis that is expanded is read once."""
    if not isinstance(x, Tensor):
        return sum(map(size, x)) if isinstance(x, (list, tuple)) else 0
    numbers = 1
    for length, stride in zip(x.shape, x.stride(), strict=True):
        numbers *= length if stride else 1
    return numbers * x.element_size()


FREE = {"empty", "empty_like", "new_empty", "arange", "scalar_tensor"}


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch is half typed
    """Adds up the price of every operation that is no view."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cost = cost

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if func.is_view or name in FREE or name == "_unsafe_view":
            return result
        # What is written in place is in the arguments already.
        written = 0 if name.endswith("_") else size(result)
        moved = size(list(args)) + written
        if name in ("mm", "addmm"):
            left, right = args[-2:]
            self.cost.add("weights", 2.0 * left.shape[0] * left.shape[1] * right.shape[1], moved)
        elif name == "bmm":
            left, right = args
            self.cost.add(
                "attention",
                2.0 * left.shape[0] * left.shape[1] * left.shape[2] * right.shape[2],
                moved,
            )
        elif (
            name in ("cat", "index_select", "clone")
            and isinstance(result, Tensor)
            and result.ndim == 5
        ):
            self.cost.add("copies", 0, 2 * size(result))
        elif name == "index_select":
            self.cost.add("elementwise", 0, 2 * size(result))
        elif name in ("copy_", "index_copy_"):
            self.cost.add(
                "elementwise", 0, 2 * size(args[-1] if name == "index_copy_" else args[1])
            )
        elif name == "index":
            self.cost.add("elementwise", 0, 2 * size(result))
        else:
            self.cost.add("attention" if "softmax" in name else "elementwise", 0, moved)
        return result


class Fused(TorchFunctionMode):
    """Attention and RMSNorm as the one kernel that they are on a GPU; on the meta device they would
    be taken apart."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, key, value = args[:3]
            mask = kwargs.get("attn_mask")
            rows, heads, new, width = query.shape
            share = 0.5 if kwargs.get("is_causal") and new == key.shape[2] else 1.0
            flops = 4.0 * rows * heads * new * key.shape[2] * width * share
            self.cost.add("attention", flops, size([query, key, value, mask]) + size(query))
            return torch.empty_like(query)
        if func is torch.nn.functional.rms_norm:
            self.cost.add("elementwise", 0, 2 * size(args[0]))
            return torch.empty_like(args[0])
        return func(*args, **kwargs)


class Replay:
    """Prices passes, images and output heads of a model of 7B's shape on the meta device."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.text = LeanLlama(model.model.language_model)
        self.layers = self.text.layers
        self.vocabulary, self.width = model.lm_head.weight.shape
        self.of_pass: Callable[[Pass], Cost] = lru_cache(None)(self._of_pass)
        self.of_look: Callable[[int], Cost] = lru_cache(None)(self._of_look)

    def _of_pass(self, asked: Pass) -> Cost:
        """Two layers and one tell what the others cost: all but the last are alike."""
        one, two = self.layered(asked, 1), self.layered(asked, 2)
        middle = two.plus(one, -1)
        return one.plus(middle, len(self.layers) - 1)

    def layered(self, asked: Pass, layers: int) -> Cost:
        like: dict[str, Any] = {"dtype": torch.bfloat16, "device": "meta"}
        heads, size = self.text.kv_heads, self.text.head_dim
        shared = None
        if asked.groups:
            kept = [
                torch.empty(2, asked.groups, heads, asked.head, size, **like) for _ in range(layers)
            ]
            shared = SharedPrefixes(kept, owners_like(asked))
        offset = 0 if asked.groups else asked.head
        cache = KVCache(
            [
                torch.empty(2, asked.rows, heads, offset + asked.room, size, **like)
                for _ in range(layers)
            ],
            offset,
            shared,
        )
        x = torch.empty(asked.rows, asked.new, self.width, **like)
        positions = torch.empty(asked.rows, asked.new, dtype=torch.long, device="meta")
        mask = (
            torch.empty(asked.rows, 1, asked.new, asked.start + asked.new, **like)
            if asked.masked
            else None
        )
        self.text.layers = self.layers[:layers]
        self.text.rotation(positions, 4096)  # its table is made once
        cost = Cost()
        with torch.no_grad(), Fused(cost), Kernels(cost):
            self.text(x, positions, cache, asked.start, mask, segments=asked.last)
        return cost

    def _of_look(self, pictures: int) -> Cost:
        cost = Cost()
        side = self.model.config.vision_config.image_size
        with torch.no_grad(), Fused(cost), Kernels(cost):
            found = tower_features(
                self.model,
                torch.empty(pictures, 3, side, side, dtype=torch.bfloat16, device="meta"),
            )
            self.model.model.multi_modal_projector(found)
        return cost

    def of_head(self, rows: int) -> Cost:
        """The output head, and what is done with its logits in float32: a copy, log_softmax, argmax
        and a few small ones."""
        cost = Cost()
        moved = 2 * (self.vocabulary * self.width + rows * self.width + rows * self.vocabulary)
        cost.add("head", 2.0 * rows * self.vocabulary * self.width, moved)
        cost.add("head", 0, rows * self.vocabulary * (2 + 4 + 4 + 4 + 4))
        cost.kernels += 8
        return cost


def owners_like(asked: Pass) -> list[int]:
    """Which row reads which head: only how many there are, and the most of one, matters to the
    price."""
    first = min(asked.most, asked.rows)
    return [0] * first + [1 + place % (asked.groups - 1) for place in range(asked.rows - first)]


def priced(log: Log, replay: Replay) -> tuple[dict[str, float], int]:
    """Seconds by term, and kernels, of all that was logged."""
    terms: defaultdict[str, float] = defaultdict(float)
    kernels = 0
    for asked, times in log.passes.items():
        cost = replay.of_pass(asked)
        kernels += times * cost.kernels
        stage = "decode" if asked.new == 1 else "prefill"
        for what, seconds in cost.seconds.items():
            terms["copies" if what == "copies" else f"{stage} {what}"] += times * seconds
    for pictures, times in log.looked.items():
        cost = replay.of_look(pictures)
        kernels += times * cost.kernels
        terms["vision"] += times * cost.total
    for rows, times in log.spoken.items():
        cost = replay.of_head(rows)
        kernels += times * cost.kernels
        terms["head"] += times * cost.total
    terms["copies"] += log.copied / BYTES
    return terms, kernels
