"""The language model's forward pass over a key-value cache that is written in place.

There are two backbones with one signature. :class:`LeanLlama` computes transformers' ``LlamaModel``
(Touvron et al., arXiv 2302.13971: RMSNorm, rotary positions, grouped queries, SwiGLU) with a third
of its operations, which dominate a small model's decoding step. It serves that exact architecture
only. :class:`TransformersText` calls any other language model's own modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache
from transformers.models.llama import modeling_llama

from harness.engine.kv_cache import KVCache, causal_mask
from harness.models.adapters import is_adapted

ROTATIONS = ("default", "linear", "llama3")
"""The supported kinds of rotary positions."""
FUSED_BYTES = 128 * 2**20
"""Models up to this size get fused q-k-v and gate-up matrices. For larger ones the copies cost more
memory than they save time."""


class LinearMaps:
    """Linear maps of one input, on a snapshot of their weights: W x, and B A x of every adapter.

    Adapters are rounded to the weights' precision, as in training: relative to the update that is
    an error of 0.2 %, where a rounded sum W + B A loses most of a small update. The matrices A of
    all maps and adapters are concatenated."""

    def __init__(self, *modules: Any, fuse: bool = False) -> None:
        weights = tuple(_base(module).weight for module in modules)
        self.weights = (torch.cat(weights),) if fuse else weights
        adapters = [_adapters(module) for module in modules]
        self.lora_b = [torch.cat([b for _, b in pairs], 1) if pairs else None for pairs in adapters]
        self.ranks = [0 if b is None else b.shape[1] for b in self.lora_b]
        lora_a = [a for pairs in adapters for a, _ in pairs]
        self.lora_a = torch.cat(lora_a) if lora_a else None

    def __call__(self, x: Tensor) -> list[Tensor]:
        """The maps of ``x`` (B, S, width), or their concatenation where they are fused."""
        outputs = [F.linear(x, weight) for weight in self.weights]
        if self.lora_a is None:
            return outputs
        projected = torch.split(F.linear(x, self.lora_a).flatten(0, 1), self.ranks, -1)
        return [
            y if b is None else torch.addmm(y.flatten(0, 1), projection, b.t()).view_as(y)
            for y, projection, b in zip(outputs, projected, self.lora_b, strict=True)
        ]


def _base(module: Any) -> Any:
    return module.base_layer if is_adapted(module) else module


def _adapters(module: Any) -> list[tuple[Tensor, Tensor]]:
    """(A, B) of the module's adapters, B with their scale, in the precision of its weights."""
    if not is_adapted(module):
        return []
    dtype = module.base_layer.weight.dtype
    return [
        (
            module.lora_A[name].weight.to(dtype),
            (module.scaling[name] * module.lora_B[name].weight).to(dtype),
        )
        for name in module.active_adapters
        if name in module.lora_A
    ]


@dataclass(frozen=True, kw_only=True)
class LlamaLayer:
    """A layer's weights."""

    norm_in: Tensor
    qkv: LinearMaps
    out: LinearMaps
    norm_mlp: Tensor
    gate_up: LinearMaps
    down: LinearMaps


class LeanLlama:
    """The forward pass of a LlamaModel, on a snapshot of its weights."""

    shares_prefixes = True
    """Whether rows may read one copy of a prefix. If not, each row gets its own copy."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = model.layers[0].self_attn.head_dim
        self.eps: float = config.rms_norm_eps
        self.norm: Tensor = model.norm.weight
        self.rotary = model.rotary_emb
        total = sum(p.numel() * p.element_size() for p in model.parameters())
        adapted = any(is_adapted(module) for module in model.modules())
        fuse = total <= FUSED_BYTES and not adapted

        self.layers = [
            LlamaLayer(
                norm_in=layer.input_layernorm.weight,
                qkv=LinearMaps(
                    layer.self_attn.q_proj,
                    layer.self_attn.k_proj,
                    layer.self_attn.v_proj,
                    fuse=fuse,
                ),
                out=LinearMaps(layer.self_attn.o_proj),
                norm_mlp=layer.post_attention_layernorm.weight,
                gate_up=LinearMaps(layer.mlp.gate_proj, layer.mlp.up_proj, fuse=fuse),
                down=LinearMaps(layer.mlp.down_proj),
            )
            for layer in model.layers
        ]
        self.rotary_table = (self.norm.new_empty(0), self.norm.new_empty(0))

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether ``model`` is exactly this architecture: no subclass, bias or hook, no adapters
        but LoRA's, and rotary positions of a supported kind."""
        allowed_types = {
            modeling_llama.LlamaModel,
            modeling_llama.LlamaDecoderLayer,
            modeling_llama.LlamaAttention,
            modeling_llama.LlamaMLP,
            modeling_llama.LlamaRMSNorm,
            modeling_llama.LlamaRotaryEmbedding,
            nn.ModuleList,
            nn.Linear,
            nn.Embedding,
        }
        if type(model) is not modeling_llama.LlamaModel or model.config.hidden_act != "silu":
            return False
        activation_ids = {id(layer.mlp.act_fn) for layer in model.layers}
        lora_ids = {
            id(child)
            for layer in model.modules()
            if is_adapted(layer)
            for child in layer.modules()
            if child is not layer.base_layer
        }
        modules = [
            module for module in model.modules() if id(module) not in activation_ids | lora_ids
        ]
        if not {type(module) for module in modules} <= allowed_types:
            return False
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
        biased = any(module.bias is not None for module in modules if isinstance(module, nn.Linear))
        return not hooked and not biased and model.rotary_emb.rope_type in ROTATIONS

    def allocate(self, rows: int, capacity: int) -> list[Tensor]:
        """Uninitialised keys and values: a tensor (2, rows, H, capacity, D) a layer."""
        shape = (2, rows, self.kv_heads, capacity, self.head_dim)
        return [self.norm.new_empty(shape) for _ in self.layers]

    def rotation(self, positions: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (B, S, 1, D) of the positions, from a table that grows to
        ``longest`` positions."""
        if len(self.rotary_table[0]) < longest:
            length = max(longest, 2 * len(self.rotary_table[0]))
            cos, sin = self.rotary(self.norm, torch.arange(length, device=self.norm.device)[None])
            sin = sin[0].clone()
            sin[:, : self.head_dim // 2].neg_()  # rotate_half(x) * sin == roll(x) * signed sin
            self.rotary_table = (cos[0].clone(), sin)
        cos, sin = self.rotary_table
        return cos[positions][:, :, None], sin[positions][:, :, None]

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        cache: KVCache,
        start: int | Tensor,
        mask: Tensor | None,
        *,
        segments: int,
    ) -> Tensor:
        """Hidden states (B, S, width) after the final norm, of embeddings ``x`` (B, S, width).

        ``positions`` are (B, S), or (3, B, S) where image tokens stand on a grid. Keys and values
        are written to suffix positions ``start`` to ``start + S``. ``mask`` (B, 1, S, start + S) is
        added to the scores of suffix positions; the prefix is always seen. None means causal.

        With ``segments`` > 0, S is cut into that many equal segments and only the last position of
        each is returned, (B, segments, width); this saves most of the last layer. Shared prefixes
        serve one new position a row only.

        With ``start`` as a tensor (1,) on the device, one token a row is written there, and all of
        the capacity is attended to, (B, 1, 1, capacity) in ``mask``: no shape or address depends on
        the position."""
        rows, length, width = x.shape
        shared = cache.shared
        if isinstance(start, Tensor):
            slot, stop = start + cache.offset, cache.capacity
            full_mask = mask if shared is not None else cache.full_mask(mask, rows, length, 0, x)
        else:
            slot, stop = None, start + length
            begin = cache.offset + start
            full_mask = (
                mask if shared is not None else cache.full_mask(mask, rows, length, start, x)
            )
        end = cache.offset + stop
        cos, sin = self.rotation(positions, cache.prefix_len + stop)
        for layer_index, (layer, cached) in enumerate(zip(self.layers, cache.layers, strict=True)):
            h = F.rms_norm(x, (width,), layer.norm_in, self.eps)
            queries, keys, values = self.project(h, layer, cos, sin)
            if slot is None:
                cached[0, :, :, begin:end] = keys.transpose(1, 2)
                cached[1, :, :, begin:end] = values.transpose(1, 2)
            else:
                cached[0].index_copy_(2, slot, keys.transpose(1, 2))
                cached[1].index_copy_(2, slot, values.transpose(1, 2))
            if layer_index + 1 == len(self.layers) and 0 < segments < length:
                if full_mask is None and segments > 1:
                    full_mask = causal_mask(rows, length, length, x)
                x, queries = segment_ends(x, segments), segment_ends(queries, segments)
                full_mask = None if full_mask is None else segment_ends(full_mask, segments, 2)
                length = segments
            if shared is not None:
                attended = shared.attend(layer_index, queries, cached[:, :, :, :end], full_mask)
            else:
                attended = F.scaled_dot_product_attention(
                    queries.transpose(1, 2),
                    cached[0, :, :, :end],
                    cached[1, :, :, :end],
                    attn_mask=full_mask,
                    is_causal=full_mask is None and length > 1,
                    enable_gqa=self.heads != self.kv_heads,
                ).transpose(1, 2)
            x = x + layer.out(attended.reshape(rows, length, -1))[0]
            h = F.rms_norm(x, (width,), layer.norm_mlp, self.eps)
            branches = layer.gate_up(h)
            gate, up = branches if len(branches) == 2 else branches[0].chunk(2, -1)
            x = x + layer.down(F.silu(gate) * up)[0]
        return F.rms_norm(x, (width,), self.norm, self.eps)

    def project(
        self, h: Tensor, layer: LlamaLayer, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, rotated keys and values, (B, S, heads, D) each."""
        maps = [y.view(*h.shape[:2], -1, self.head_dim) for y in layer.qkv(h)]
        if len(maps) == 1:
            rotated = self.rotate(maps[0][:, :, : -self.kv_heads], cos, sin)
            values = maps[0][:, :, -self.kv_heads :]
            return rotated[:, :, : self.heads], rotated[:, :, self.heads :], values
        return self.rotate(maps[0], cos, sin), self.rotate(maps[1], cos, sin), maps[2]

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return torch.addcmul(x * cos, x.roll(self.head_dim // 2, -1), sin)


class TransformersText:
    """Any transformers decoder whose layers use a ``Cache`` and accept a 4-D mask. Its methods are
    those of :class:`LeanLlama`, with ``start`` as a number only."""

    shares_prefixes = False

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.head_shape = (getattr(config, "num_key_value_heads", None) or heads, head_dim)
        self.layers: int = config.num_hidden_layers
        self.like: Tensor = next(model.parameters())

    def allocate(self, rows: int, capacity: int) -> list[Tensor]:
        heads, head_dim = self.head_shape
        return [
            self.like.new_empty((2, rows, heads, capacity, head_dim)) for _ in range(self.layers)
        ]

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        cache: KVCache,
        start: int,
        mask: Tensor | None,
        *,
        segments: int,
    ) -> Tensor:
        rows, length, _ = x.shape
        full_mask = cache.full_mask(mask, rows, length, start, x)
        if full_mask is None:
            full_mask = causal_mask(rows, length, cache.offset + start + length, x)
        output = self.model(
            inputs_embeds=x,
            position_ids=positions,
            attention_mask=full_mask,
            past_key_values=InPlaceCache(cache.layers, cache.offset + start),
            use_cache=True,
            return_dict=True,
        )
        hidden: Tensor = output.last_hidden_state
        return segment_ends(hidden, segments) if segments else hidden


class InPlaceCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """Our key-value tensors behind the interface of transformers' ``Cache``."""

    def __init__(self, tensors: list[Tensor], start: int) -> None:
        super().__init__(layers=[])
        self.tensors, self.start = tensors, start

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        end = self.start + key_states.shape[2]
        tensor = self.tensors[layer_idx]
        tensor[0, :, :, self.start : end] = key_states
        tensor[1, :, :, self.start : end] = value_states
        return tensor[0, :, :, :end], tensor[1, :, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  (transformers' signature)
        return self.start


Backbone = LeanLlama | TransformersText
"""A language model over a :class:`harness.engine.kv_cache.KVCache`."""


def backbone(language_model: Any) -> Backbone:
    """:class:`LeanLlama` where it fits the model exactly, else the model's own modules."""
    if LeanLlama.fits(language_model):
        return LeanLlama(language_model)
    return TransformersText(language_model)


def segment_ends(x: Tensor, segments: int, axis: int = 1) -> Tensor:
    """The last position of each of ``segments`` equal segments of an axis, in memory of its own:
    CUDA's attention reads a mask by 16 bytes, and a view may begin between them."""
    length = x.shape[axis] // segments
    ends = x[(slice(None),) * axis + (slice(length - 1, None, length),)]
    return ends.clone(memory_format=torch.contiguous_format)
