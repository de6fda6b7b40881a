"""How much of a device's memory a training takes: arithmetic from a model's shape, held to counts
by a test and by a bench.

The counts (``python -m nox -s bench_memory``) run the real step on fake tensors of LLaVA-1.5's
sizes; the arithmetic here is never below them and at most 15 % above. It holds for decoder layers
of LLaMA's kind (RMS norms, SwiGLU, fused attention)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.interface import Recipe

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's language part (width, the feed-forward's inner width, layers, heads, width of all
    keys of a token, vocabulary, bias terms a layer, whether the head is the embedding) and the
    number of parameters of its vision tower and projector."""

    width: int
    inner: int
    layers: int
    heads: int
    keys: int
    vocabulary: int
    tower: int
    projector: int
    biases: int = 0
    tied: bool = False

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of a layer's linear maps: query, key, value, output, gate, up, down."""
        wide, inner = self.width, self.inner
        return (
            (wide, wide),
            (wide, self.keys),
            (wide, self.keys),
            (wide, wide),
            (wide, inner),
            (wide, inner),
            (inner, wide),
        )

    @property
    def layer(self) -> int:
        """Parameters of a decoder layer."""
        return sum(one * other for one, other in self.linears) + 2 * self.width + self.biases

    @property
    def language(self) -> int:
        """Parameters of the language model with its embeddings and head."""
        return (
            self.layers * self.layer
            + (1 if self.tied else 2) * self.vocabulary * self.width
            + self.width
        )

    @property
    def parameters(self) -> int:
        return self.language + self.projector + self.tower

    def adapters(self, rank: int) -> int:
        """Parameters of adapters of this rank on every linear map of the layers."""
        return self.layers * rank * sum(one + other for one, other in self.linears)


SHAPES: Mapping[str, Shape] = {
    "llava-1.5-7b": Shape(
        width=4096,
        inner=11008,
        layers=32,
        heads=32,
        keys=4096,
        vocabulary=32064,
        tower=303_507_456,
        projector=20_979_712,
    ),
    "llava-1.5-13b": Shape(
        width=5120,
        inner=13824,
        layers=40,
        heads=40,
        keys=5120,
        vocabulary=32064,
        tower=303_507_456,
        projector=31_467_520,
    ),
    "qwen2.5-vl-7b": Shape(
        width=3584,
        inner=18944,
        layers=28,
        heads=28,
        keys=512,
        vocabulary=152064,
        tower=631_975_680,
        projector=44_574_464,
        biases=3584 + 2 * 512,
    ),
    "qwen2.5-vl-3b": Shape(
        width=2048,
        inner=11008,
        layers=36,
        heads=16,
        keys=256,
        vocabulary=151936,
        tower=631_975_680,
        projector=36_708_608,
        biases=2048 + 2 * 256,
        tied=True,
    ),
}
"""The shapes of the named cards, so that a study can be planned before its base is here; a test
holds them to transformers'."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a training lays on a shape: numbers of trained and frozen weights, bytes a value that is
    computed with (2 in half precision, else 4), the adapters' rank and whether they drop inputs (0:
    full training), and the longest batch that meets the model at once: rows, their length, and
    tokens of answers (padded)."""

    trained: int
    frozen: int
    value: int
    rank: int
    dropout: bool
    rows: int
    length: int
    words: int
    checkpointing: bool
    processes: int = 1
    moments: int = 8


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes a device that a training takes at its worst moment."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def kept(shape: Shape, load: Load) -> int:
    """Bytes that one decoder layer keeps for its backward pass, a token.

    The two norms keep their input and the normed values in float32 (the latter where the norm's own
    weight trains); the linear maps their inputs (where autocast rounds them for query, key, value,
    gate and up, each its own); attention query, key, value, output and a float32 a head; SwiGLU its
    two branches, the gate's activation and the product. Adapters keep what they bring down to their
    rank and, with dropout, a copy of every input and a byte that says what was dropped."""
    wide, inner, value = shape.width, shape.inner, load.value
    attention, swiglu, scales = 4 * value * wide + 4 * shape.heads, 4 * value * inner, 8
    if not load.rank:
        inputs = 5 * 2 * wide if value == 2 else 2 * 4 * wide
        return 2 * 8 * wide + inputs + attention + swiglu + scales
    ranks = len(shape.linears) * load.rank * value
    if not load.dropout:
        return 2 * (4 + value) * wide + attention + swiglu + ranks + scales
    dropped = (value + 1) * sum(one for one, _ in shape.linears)
    return 2 * 4 * wide + attention + swiglu - value * inner + ranks + dropped + scales


def need(shape: Shape, load: Load) -> Need:
    """What training takes when gradients of earlier pieces of the step are there already.

    Trained weights, their gradients and AdamW's two moments are float32 (8 bytes of moments a
    weight; 2 in 8 bits), spread over
    ``processes``; frozen ones are in the precision of the base, whole. Adapters are whole, and the
    weights under them are spread. Autocast's rounded copies of what trains last as long as the
    forward pass, with recomputed activations as long as a layer. Every layer keeps :func:`kept`;
    with recomputed activations its input alone, and one layer at a time all of it. On top comes the
    larger of a layer's backward pass and the head's: the logits in ``value`` bytes and in float32,
    with their gradients; and one matrix's gradient before it is added up."""
    wide, tokens = shape.width, load.rows * load.length
    full, half, several = not load.rank, load.value == 2, load.processes > 1
    share = -(-load.trained // load.processes) if full else load.trained
    frozen = (
        load.frozen
        if full
        else shape.tower + -(-max(0, load.frozen - shape.tower) // load.processes)
    )
    layer = tokens * kept(shape, load)
    stream = tokens * wide * (4 if not load.rank else load.value)
    embedded = shape.vocabulary * wide
    passing = 4 * load.value * shape.inner + 7 * load.value * wide
    one_layer = shape.layer if full else shape.adapters(load.rank) // shape.layers
    copies, layer_copies = 0, 0
    if half and load.checkpointing:
        copies, layer_copies = (
            2 * (embedded if full else load.trained - shape.adapters(load.rank)),
            2 * one_layer,
        )
    elif half:
        copies = 2 * load.trained - (2 * embedded if full and not shape.tied else 0)
    fresh = 4 + (2 if half else 0)
    head = (
        tokens * wide * 16 + load.words * shape.vocabulary * 18 + (fresh * embedded if full else 0)
    )
    body = tokens * passing + (fresh * wide * shape.inner if full else 0)
    mask = load.rows * load.length * (load.length + 8) * (load.value + 1)
    if load.checkpointing:
        activations = shape.layers * stream + max(layer + body + layer_copies, head)
    else:
        activations = shape.layers * layer + max(body, head)
    # Three layers are whole at a time where weights are sharded (used, fetched, freed), and what
    # stands outside of layers.
    gathered = load.value * (3 * shape.layer + 2 * embedded) if several else 0
    held = load.value * frozen + 4 * share + copies + gathered
    rest = (4 + load.moments) * share + activations + mask
    # Before it is spread, the base is whole in its own precision, with what is spread of it and one
    # layer in float32.
    loading = (
        load.value * (load.trained + load.frozen) + 4 * share + 4 * shape.layer if several else 0
    )
    return Need(
        weights=max(held, loading - rest),
        gradients=4 * share,
        optimizer=load.moments * share,
        activations=activations + mask,
    )


def shape_of(model: Any) -> Shape:
    """A loaded model's shape; what is not of its language part stands under ``tower``."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        width=config.hidden_size,
        inner=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=heads,
        keys=(getattr(config, "num_key_value_heads", None) or heads) * head,
        vocabulary=config.vocab_size,
        tower=0,
        projector=0,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
    )


def planned(
    shape: Shape,
    recipe: Recipe,
    value: int,
    *,
    rows: int,
    prompt: int,
    side: int,
    processes: int = 1,
) -> Need:
    """What a recipe will take on a shape with recomputed activations, ``rows`` pairs at once of a
    prompt (image included) and two answers of ``side`` tokens."""
    if recipe.lora is None:
        trained = shape.language + shape.projector
    else:
        trained = shape.adapters(recipe.lora.r) + (
            shape.projector if recipe.projector_lr is not None else 0
        )
    whole = shape.parameters + (0 if recipe.lora is None else shape.adapters(recipe.lora.r))
    load = Load(
        trained=trained,
        frozen=whole - trained,
        value=value,
        rank=0 if recipe.lora is None else recipe.lora.r,
        dropout=recipe.lora is not None and recipe.lora.dropout > 0,
        rows=rows,
        length=prompt + 2 * side,
        words=2 * rows * side,
        checkpointing=True,
        processes=processes,
    )
    return need(shape, load)


def forward_flops(shape: Shape, *, prompt: int, side: int) -> float:
    """FLOPs of a packed pair's forward pass: 2 a weight and token in the layers, attention over the
    row, the head at answers."""
    tokens = prompt + 2 * side
    weights = shape.layers * sum(one * other for one, other in shape.linears)
    return (
        2.0 * tokens * weights
        + 4.0 * shape.layers * shape.width * tokens**2
        + 4.0 * side * shape.vocabulary * shape.width
    )


def backward_share(recipe: Recipe) -> float:
    """FLOPs of a backward pass as a share of the forward pass: frozen weights get no gradient of
    their own."""
    return 2.0 if recipe.lora is None else 1.1
