"""The language model's forward pass over a key-value cache (cache.py) that is written in place.

Two backbones with one signature. :class:`LeanLlama` computes transformers' ``LlamaModel`` (RMSNorm,
rotary positions, grouped queries, SwiGLU; Touvron et al., arXiv 2302.13971) with a third of its
operations, for the exact architecture only; for a small model the cost of a decoding step is the
number of operations. :class:`TransformersText` calls any other language model's own modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache
from transformers.models.llama import modeling_llama

from harness.engine.kv_cache import KeyValues, causal_mask

FUSED_BYTES = 128 * 2**20
"""Language models up to this size get joint q-k-v and gate-up matrices; a large one is not worth
the copies."""


class Backbone(Protocol):
    shares: bool
    """Whether rows may read one copy of a head; else each row gets a copy of its own."""

    def empty(self, rows: int, capacity: int) -> list[Tensor]:
        """Room for keys and values, a tensor (2, rows, H, capacity, D) a layer."""
        ...

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        cache: KeyValues,
        start: int,
        mask: Tensor | None,
        *,
        last: int,
    ) -> Tensor:
        """Hidden states (B, S, width), final norm applied, of the embeddings ``x`` (B, S, width) at
        ``positions`` (B, S), or (3, B, S) for an image on a grid (only where the model has such
        positions); where ``last`` is not 0, of the last position of each of so many equal parts of
        S alone, (B, last, width), which spares most of the last layer.

        Keys and values are written behind the head at ``start`` ..< ``start + S``. ``mask`` (B, 1,
        S, start + S) is added to the attention scores of the positions behind the head; the head is
        always seen. None means: all that came before, and causal among the new. Shared heads are
        read for one new position a row only."""
        ...


@dataclass(frozen=True, kw_only=True)
class LlamaLayer:
    """A layer's weights; ``qkv`` and ``gate_up`` hold one joint matrix or the single ones."""

    norm_in: Tensor
    qkv: tuple[Tensor, ...]
    out: Tensor
    norm_mlp: Tensor
    gate_up: tuple[Tensor, ...]
    down: Tensor


class LeanLlama:
    """A snapshot of a LlamaModel's weights and its forward pass."""

    shares = True

    def __init__(self, model: Any) -> None:
        config = model.config
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.size: int = model.layers[0].self_attn.head_dim
        self.eps: float = config.rms_norm_eps
        self.norm: Tensor = model.norm.weight
        self.rotary = model.rotary_emb
        total = sum(p.numel() * p.element_size() for p in model.parameters())
        fuse = total <= FUSED_BYTES

        def joint(*modules: Any) -> tuple[Tensor, ...]:
            weights = tuple(module.weight for module in modules)
            return (torch.cat(weights),) if fuse else weights

        self.layers = [
            LlamaLayer(
                norm_in=layer.input_layernorm.weight,
                qkv=joint(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                out=layer.self_attn.o_proj.weight,
                norm_mlp=layer.post_attention_layernorm.weight,
                gate_up=joint(layer.mlp.gate_proj, layer.mlp.up_proj),
                down=layer.mlp.down_proj.weight,
            )
            for layer in model.layers
        ]
        self.table = (self.norm.new_empty(0), self.norm.new_empty(0))

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether ``model`` is exactly the architecture computed here: no subclass, adapter, bias,
        hook or scaled rotation."""
        exact = {
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
        activation = {id(layer.mlp.act_fn) for layer in model.layers}
        modules = [module for module in model.modules() if id(module) not in activation]
        return (
            all(
                type(module) in exact
                and not module._forward_hooks
                and not module._forward_pre_hooks
                for module in modules
            )
            and all(module.bias is None for module in modules if isinstance(module, nn.Linear))
            and model.rotary_emb.rope_type in ("default", "linear", "llama3")
        )

    def empty(self, rows: int, capacity: int) -> list[Tensor]:
        shape = (2, rows, self.key_heads, capacity, self.size)
        return [self.norm.new_empty(shape) for _ in self.layers]

    def rotation(self, positions: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (B, S, 1, D) of the positions, from a table that grows to
        ``longest``."""
        if len(self.table[0]) < longest:
            length = max(longest, 2 * len(self.table[0]))
            cos, sin = self.rotary(self.norm, torch.arange(length, device=self.norm.device)[None])
            sin = sin[0].clone()
            sin[:, : self.size // 2].neg_()  # rotate_half(x) * sin == roll(x) * signed sin
            self.table = (cos[0].clone(), sin)
        cos, sin = self.table
        return cos[positions][:, :, None], sin[positions][:, :, None]

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        cache: KeyValues,
        start: int,
        mask: Tensor | None,
        *,
        last: int,
    ) -> Tensor:
        rows, length, width = x.shape
        begin, end = cache.offset + start, cache.offset + start + length
        heads = cache.heads
        full = mask if heads is not None else cache.full_mask(mask, rows, length, start, x)
        cos, sin = self.rotation(positions, cache.length + start + length)
        for index, (layer, kept) in enumerate(zip(self.layers, cache.layers, strict=True)):
            h = F.rms_norm(x, (width,), layer.norm_in, self.eps)
            queries, keys, values = self.turned(h, layer, cos, sin)
            kept[0, :, :, begin:end] = keys.transpose(1, 2)
            kept[1, :, :, begin:end] = values.transpose(1, 2)
            if last and index + 1 == len(self.layers) and last < length:
                if full is None:
                    full = causal_mask(rows, length, length, x) if last > 1 else None
                x, queries, full = (
                    ends(x, last),
                    ends(queries, last),
                    None if full is None else ends(full, last, 2),
                )
                length = last
            if heads is not None:
                attended = heads.attend(index, queries, kept[:, :, :, :end], full)
            else:
                attended = F.scaled_dot_product_attention(
                    queries.transpose(1, 2),
                    kept[0, :, :, :end],
                    kept[1, :, :, :end],
                    attn_mask=full,
                    is_causal=full is None and length > 1,
                    enable_gqa=self.heads != self.key_heads,
                ).transpose(1, 2)
            x = x + F.linear(attended.reshape(rows, length, -1), layer.out)
            h = F.rms_norm(x, (width,), layer.norm_mlp, self.eps)
            if len(layer.gate_up) == 1:
                gate, up = F.linear(h, layer.gate_up[0]).chunk(2, -1)
            else:
                gate, up = (F.linear(h, weight) for weight in layer.gate_up)
            x = x + F.linear(F.silu(gate) * up, layer.down)
        return F.rms_norm(x, (width,), self.norm, self.eps)

    def turned(
        self, h: Tensor, layer: LlamaLayer, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, both rotated to their positions, and values, (B, S, heads, D) each."""
        parts = [F.linear(h, weight).view(*h.shape[:2], -1, self.size) for weight in layer.qkv]
        if len(parts) == 1:
            turned = self.rotate(parts[0][:, :, : -self.key_heads], cos, sin)
            return (
                turned[:, :, : self.heads],
                turned[:, :, self.heads :],
                parts[0][:, :, -self.key_heads :],
            )
        return self.rotate(parts[0], cos, sin), self.rotate(parts[1], cos, sin), parts[2]

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return torch.addcmul(x * cos, x.roll(self.size // 2, -1), sin)


class TransformersText:
    """Any decoder of transformers whose layers hand their keys and values to a Cache and take a 4-d
    mask."""

    shares = False

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.shape = (getattr(config, "num_key_value_heads", None) or heads, size)
        self.layers: int = config.num_hidden_layers
        self.like: Tensor = next(model.parameters())

    def empty(self, rows: int, capacity: int) -> list[Tensor]:
        heads, size = self.shape
        return [self.like.new_empty((2, rows, heads, capacity, size)) for _ in range(self.layers)]

    def __call__(
        self,
        x: Tensor,
        positions: Tensor,
        cache: KeyValues,
        start: int,
        mask: Tensor | None,
        *,
        last: int,
    ) -> Tensor:
        rows, length, _ = x.shape
        full = cache.full_mask(mask, rows, length, start, x)
        output = self.model(
            inputs_embeds=x,
            position_ids=positions,
            attention_mask=(
                causal_mask(rows, length, cache.offset + start + length, x)
                if full is None
                else full
            ),
            past_key_values=InPlace(cache.layers, cache.offset + start),
            use_cache=True,
            return_dict=True,
        )
        hidden: Tensor = output.last_hidden_state
        return ends(hidden, last) if last else hidden


class InPlace(Cache):  # type: ignore[misc]  # transformers is untyped
    """Our key-value tensors, as transformers' attention layers want to be handed them."""

    def __init__(self, kept: list[Tensor], start: int) -> None:
        super().__init__(layers=[])
        self.kept, self.start = kept, start

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        end = self.start + key_states.shape[2]
        kept = self.kept[layer_idx]
        kept[0, :, :, self.start : end] = key_states
        kept[1, :, :, self.start : end] = value_states
        return kept[0, :, :, :end], kept[1, :, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002  (transformers' signature)
        return self.start


def backbone(language_model: Any) -> Backbone:
    """The lean forward pass where it is exactly this model's, else the model's own."""
    return (
        LeanLlama(language_model)
        if LeanLlama.fits(language_model)
        else TransformersText(language_model)
    )


def ends(x: Tensor, parts: int, axis: int = 1) -> Tensor:
    """The last place of each of so many equal parts of an axis."""
    return x[
        (slice(None),) * axis + (slice(x.shape[axis] // parts - 1, None, x.shape[axis] // parts),)
    ]
