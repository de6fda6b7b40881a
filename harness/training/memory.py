"""The device memory that a training takes: arithmetic from a model's shape.

A bench (``python -m nox -s bench_memory``) counts the bytes of the real step on fake tensors of
LLaVA-1.5's sizes. The arithmetic is never below these counts and at most 15 % above; a test holds
it to that. It covers decoder layers like LLaMA's (RMSNorm, SwiGLU, fused attention)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.interface import Recipe

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's sizes."""

    width: int
    """Width of the hidden states."""
    inner: int
    """Inner width of the feed-forward layers."""
    layers: int
    heads: int
    keys: int
    """Width of a token's keys, over all key heads."""
    vocabulary: int
    tower: int
    """Parameters of the vision tower."""
    projector: int
    """Parameters of the projector."""
    biases: int = 0
    """Bias terms of a layer."""
    tied: bool = False
    """Whether the output head is the embedding."""

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of a layer's linear maps: query, key, value, output, gate, up, down."""
        width, inner, key_width = self.width, self.inner, self.keys
        attention = ((width, width), (width, key_width), (width, key_width), (width, width))
        return (*attention, (width, inner), (width, inner), (inner, width))

    @property
    def layer(self) -> int:
        """Parameters of a decoder layer."""
        return sum(ins * outs for ins, outs in self.linears) + 2 * self.width + self.biases

    @property
    def language(self) -> int:
        """Parameters of the language model with its embeddings and head."""
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.width
        return self.layers * self.layer + embeddings + self.width

    @property
    def parameters(self) -> int:
        return self.language + self.projector + self.tower

    def adapters(self, rank: int) -> int:
        """Parameters of adapters of this rank on every linear map of the layers."""
        return self.layers * rank * sum(ins + outs for ins, outs in self.linears)


LLAVA_TOWER, QWEN_TOWER = 303_507_456, 631_975_680

SHAPES: Mapping[str, Shape] = {
    "llava-1.5-7b": Shape(
        width=4096, inner=11008, layers=32, heads=32, keys=4096, vocabulary=32064,
        tower=LLAVA_TOWER, projector=20_979_712,
    ),
    "llava-1.5-13b": Shape(
        width=5120, inner=13824, layers=40, heads=40, keys=5120, vocabulary=32064,
        tower=LLAVA_TOWER, projector=31_467_520,
    ),
    "qwen2.5-vl-7b": Shape(
        width=3584, inner=18944, layers=28, heads=28, keys=512, vocabulary=152064,
        tower=QWEN_TOWER, projector=44_574_464, biases=3584 + 2 * 512,
    ),
    "qwen2.5-vl-3b": Shape(
        width=2048, inner=11008, layers=36, heads=16, keys=256, vocabulary=151936,
        tower=QWEN_TOWER, projector=36_708_608, biases=2048 + 2 * 256, tied=True,
    ),
}  # fmt: skip
"""Shapes of the named cards, so that a study can be planned before its base is downloaded. A test
compares them with transformers' models."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a training computes on a shape."""

    trained: int
    """Number of trained weights."""
    frozen: int
    """Number of frozen weights."""
    value_bytes: int
    """Bytes of a value in the forward pass: 2 in half precision, else 4."""
    rank: int
    """Rank of the adapters; 0 for full training."""
    dropout: bool
    """Whether the adapters drop inputs."""
    pairs: int
    """Pairs in one forward pass."""
    pair_tokens: int
    """Tokens of the longest packed pair."""
    answer_tokens: int
    """Answer tokens of the batch, with padding."""
    checkpointing: bool
    """Whether activations are recomputed in the backward pass."""
    processes: int = 1
    """Processes over which the trained part is sharded (with adapters: the frozen part)."""
    moment_bytes: int = 8
    """Bytes of optimiser state a trained weight."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes of a device that a training takes at its peak."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def layer_activations(shape: Shape, load: Workload) -> int:
    """Bytes a token that one decoder layer keeps for its backward pass.

    - Each of the two norms keeps its input and, if its weight trains, the normed values, in
      float32.
    - Linear maps keep their inputs; under autocast query, key, value, gate and up each keep their
      own rounded copy.
    - Attention keeps query, key, value, output and a float32 a head.
    - SwiGLU keeps its two branches, the gate's activation and their product.
    - Adapters keep their inner values and, with dropout, a copy and a mask byte of every input."""
    width, inner, value = shape.width, shape.inner, load.value_bytes
    attention, swiglu, scales = 4 * value * width + 4 * shape.heads, 4 * value * inner, 8
    if not load.rank:
        inputs = 5 * 2 * width if value == 2 else 2 * 4 * width
        return 2 * 8 * width + inputs + attention + swiglu + scales
    ranks = len(shape.linears) * load.rank * value
    if not load.dropout:
        return 2 * (4 + value) * width + attention + swiglu + ranks + scales
    dropped = (value + 1) * sum(ins for ins, _ in shape.linears)
    return 2 * 4 * width + attention + swiglu - value * inner + ranks + dropped + scales


def estimate_memory(shape: Shape, load: Workload) -> MemoryEstimate:
    """Peak memory of a step, with the gradients of its earlier pieces in place.

    - Trained weights, their gradients and AdamW's moments are float32, sharded over ``processes``;
      frozen weights are whole, in the base's precision. With adapters it is the other way round:
      adapters are whole and the weights under them are sharded.
    - Autocast's rounded copies of trained weights last for the forward pass; with checkpointing,
      for a layer.
    - Every layer keeps :func:`layer_activations`; with checkpointing only its input, and one layer
      at a time all of it.
    - The larger of a layer's backward pass and the head's comes on top. The head has its logits in
      ``value_bytes`` and in float32, with their gradients. Each has one matrix's new gradient."""
    full, half = not load.rank, load.value_bytes == 2
    shard = -(-load.trained // load.processes) if full else load.trained
    frozen = load.frozen
    if not full:
        frozen = shape.tower + -(-max(0, load.frozen - shape.tower) // load.processes)
    activations = _activations(shape, load)
    embedded = shape.vocabulary * shape.width
    copies = 0
    if half and not load.checkpointing:
        copies = 2 * load.trained - (2 * embedded if full and not shape.tied else 0)
    elif half:
        copies = 2 * (embedded if full else load.trained - shape.adapters(load.rank))
    gathered = loading = 0
    if load.processes > 1:
        # Sharded: three layers are whole at a time (used, fetched, freed), and what is outside of
        # layers. Before sharding, the whole base, its shards and one layer in float32.
        gathered = load.value_bytes * (3 * shape.layer + 2 * embedded)
        loading = load.value_bytes * (load.trained + load.frozen) + 4 * shard + 4 * shape.layer
    resident = load.value_bytes * frozen + 4 * shard + copies + gathered
    other_bytes = (4 + load.moment_bytes) * shard + activations
    return MemoryEstimate(
        weights=max(resident, loading - other_bytes),
        gradients=4 * shard,
        optimizer=load.moment_bytes * shard,
        activations=activations,
    )


def _activations(shape: Shape, load: Workload) -> int:
    """Bytes of activations, masks and temporary gradients at the peak."""
    width, tokens = shape.width, load.pairs * load.pair_tokens
    full, half = not load.rank, load.value_bytes == 2
    layer = tokens * layer_activations(shape, load)
    # A new gradient in float32, and the rounded one that it comes from.
    gradient_bytes = 4 + (2 if half else 0)
    head = tokens * width * 16 + load.answer_tokens * shape.vocabulary * 18
    body = tokens * (4 * load.value_bytes * shape.inner + 7 * load.value_bytes * width)
    if full:
        head += gradient_bytes * shape.vocabulary * width
        body += gradient_bytes * width * shape.inner
    mask = load.pairs * load.pair_tokens * (load.pair_tokens + 8) * (load.value_bytes + 1)
    if not load.checkpointing:
        return shape.layers * layer + max(body, head) + mask
    one_layer = shape.layer if full else shape.adapters(load.rank) // shape.layers
    layer_copies = 2 * one_layer if half else 0
    layer_inputs = tokens * width * (4 if full else load.value_bytes)
    return shape.layers * layer_inputs + max(layer + body + layer_copies, head) + mask


def shape_of(model: Any) -> Shape:
    """The shape of a loaded model's language part; ``tower`` and ``projector`` are 0."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        width=config.hidden_size,
        inner=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=heads,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * head_dim,
        vocabulary=config.vocab_size,
        tower=0,
        projector=0,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
    )


def recipe_memory(
    shape: Shape,
    recipe: Recipe,
    value: int,
    *,
    rows: int,
    prompt: int,
    side: int,
    processes: int = 1,
    moments: int = 8,
) -> MemoryEstimate:
    """The memory of a recipe on a shape, with checkpointing: ``rows`` pairs in one forward pass, of
    a ``prompt`` (image tokens included) and two answers of ``side`` tokens each. ``value``: bytes
    of a value in the forward pass."""
    adapters = 0 if recipe.lora is None else shape.adapters(recipe.lora.r)
    trained = shape.language if recipe.lora is None else adapters
    trained += shape.projector if recipe.trains_projector else 0
    load = Workload(
        trained=trained,
        frozen=shape.parameters + adapters - trained,
        value_bytes=value,
        rank=0 if recipe.lora is None else recipe.lora.r,
        dropout=recipe.lora is not None and recipe.lora.dropout > 0,
        pairs=rows,
        pair_tokens=prompt + 2 * side,
        answer_tokens=2 * rows * side,
        checkpointing=True,
        processes=processes,
        moment_bytes=moments,
    )
    return estimate_memory(shape, load)


def forward_flops(shape: Shape, *, prompt: int, side: int) -> float:
    """FLOPs of a packed pair's forward pass: 2 a weight and token in the layers, attention over the
    row, and the head on the answers' tokens."""
    tokens = prompt + 2 * side
    layers = shape.layers * sum(ins * outs for ins, outs in shape.linears)
    attention = shape.layers * shape.width * tokens**2
    return 2.0 * tokens * layers + 4.0 * attention + 4.0 * side * shape.vocabulary * shape.width


def backward_share(recipe: Recipe) -> float:
    """FLOPs of a backward pass as a share of the forward pass; frozen weights need no gradient."""
    return 2.0 if recipe.lora is None else 1.1
