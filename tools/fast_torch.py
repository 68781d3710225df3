"""Head patching in PyTorch as somebody who cares about speed would write it by hand: the baseline of tools/compare-tl.

For Hugging Face folders of Llama's architecture, prompts of one length. What it saves against one full forward pass per
patch:
- one clean and one corrupted run keep residuals, z, keys and values;
- a patched run starts behind the patched layer's attention: the change of z goes through W_O onto the cached residual;
- all heads of a layer (and all positions, by position) are one batch;
- the last layer computes the last position only, and only the answers' rows of the unembedding are read;
- positions before the first differing token are not computed, their keys and values come from the corrupted run.

What it cannot do is what patchwave adds: patches of several layers in one batch, prompts of several lengths in one
batch, a suffix that begins at the patched position, and cells that are known to be zero.
"""

import json
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch.nn import functional


@dataclass
class Layer:
    """Weights of one block; q, k, v and gate, up are one matrix each."""

    attn_norm: torch.Tensor
    qkv: torch.Tensor
    o: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


@dataclass
class Run:
    """An unpatched run: the final residual and, by layer, resid_mid, z, keys and values."""

    final: torch.Tensor
    resid_mid: list
    z: list
    keys: list
    values: list


class FastLlama:
    def __init__(self, folder, dtype=torch.float32, device="cpu"):
        with open(f"{folder}/config.json") as file:
            config = json.load(file)
        weights = {name: t.to(device, dtype) for name, t in load_file(f"{folder}/model.safetensors").items()}
        self.d_model, self.eps = config["hidden_size"], config["rms_norm_eps"]
        self.n_heads, self.n_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.d_head = config.get("head_dim") or self.d_model // self.n_heads
        self.embed = weights["model.embed_tokens.weight"]
        self.unembed = self.embed if config["tie_word_embeddings"] else weights["lm_head.weight"]
        self.final_norm = weights["model.norm.weight"]
        self.layers = []
        for index in range(config["num_hidden_layers"]):

            def get(name, prefix=f"model.layers.{index}"):
                return weights[f"{prefix}.{name}.weight"]

            self.layers.append(
                Layer(
                    attn_norm=get("input_layernorm"),
                    qkv=torch.cat([get(f"self_attn.{x}_proj") for x in "qkv"]),
                    o=get("self_attn.o_proj"),
                    mlp_norm=get("post_attention_layernorm"),
                    gate_up=torch.cat([get("mlp.gate_proj"), get("mlp.up_proj")]),
                    down=get("mlp.down_proj"),
                )
            )
        theta = config["rope_parameters"]["rope_theta"] if "rope_parameters" in config else config["rope_theta"]
        inverse = theta ** (-torch.arange(0, self.d_head, 2, dtype=torch.float64) / self.d_head)
        angle = torch.arange(512, dtype=torch.float64)[:, None] * inverse
        angle = torch.cat([angle, angle], -1)
        self.cos, self.sin = angle.cos().to(device, dtype), angle.sin().to(device, dtype)

    def norm(self, x, weight):
        return functional.rms_norm(x, (self.d_model,), weight, self.eps)

    def rope(self, x, first):
        """x [..., pos, d_head], its first row at position `first`."""
        cos, sin = (table[first : first + x.shape[-2]] for table in (self.cos, self.sin))
        half = self.d_head // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def mlp(self, x, layer):
        gate, up = functional.linear(self.norm(x, layer.mlp_norm), layer.gate_up).chunk(2, -1)
        return functional.linear(functional.silu(gate) * up, layer.down)

    def attention(self, x, layer, first=0, prefix=None, last_only=False):
        """z [batch, pos, n_heads * d_head] of x [batch, pos, d_model] at positions first.., with the keys and values.

        `prefix` holds the keys and values [pair, kv_head, first, d_head] of the positions before; every one of the
        batch // pair copies of the pairs sees them. `last_only` computes the last query alone.
        """
        batch, length, _ = x.shape
        qkv = functional.linear(self.norm(x, layer.attn_norm), layer.qkv)
        qkv = qkv.view(batch, length, -1, self.d_head).transpose(1, 2)
        q, k, v = qkv.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=1)
        q, k = self.rope(q, first), self.rope(k, first)
        all_k, all_v = k, v
        if prefix is not None:
            copies = batch // prefix[0].shape[0]
            all_k, all_v = (
                torch.cat([old.repeat(copies, 1, 1, 1), new], 2) for old, new in zip(prefix, (k, v), strict=True)
            )
        if last_only:
            z = functional.scaled_dot_product_attention(q[:, :, -1:], all_k, all_v, enable_gqa=True)
        elif prefix is None:
            z = functional.scaled_dot_product_attention(q, all_k, all_v, is_causal=True, enable_gqa=True)
        else:
            mask = torch.ones(length, all_k.shape[2], dtype=torch.bool, device=x.device).tril(first)
            z = functional.scaled_dot_product_attention(q, all_k, all_v, attn_mask=mask, enable_gqa=True)
        return z.transpose(1, 2).flatten(2), k, v

    def run(self, ids):
        """An unpatched run of ids [pair, pos]."""
        x, run = self.embed[ids], Run(None, [], [], [], [])
        for layer in self.layers:
            z, k, v = self.attention(x, layer)
            x = x + functional.linear(z, layer.o)
            run.resid_mid.append(x)
            run.z.append(z)
            run.keys.append(k)
            run.values.append(v)
            x = x + self.mlp(x, layer)
        run.final = x
        return run

    def logit_diff(self, x, answer, wrong):
        """[copy, pair] from the final residual [copy * pair, d_model]; reads two rows of the unembedding per pair."""
        x = self.norm(x, self.final_norm).view(-1, answer.shape[0], self.d_model)
        return (x.float() * (self.unembed[answer].float() - self.unembed[wrong].float())).sum(-1)

    def finish(self, x, patched_layer, first, base):
        """Final residual at the last position [batch, d_model] from x, the output of `patched_layer`."""
        for index in range(patched_layer + 1, len(self.layers)):
            layer, last = self.layers[index], index == len(self.layers) - 1
            prefix = (base.keys[index][:, :, :first], base.values[index][:, :, :first]) if first else None
            z, _, _ = self.attention(x, layer, first, prefix, last_only=last)
            x = (x[:, -1:] if last else x) + functional.linear(z, layer.o)
            x = x + self.mlp(x, layer)
        return x[:, -1]

    def sweep(self, clean, corrupted, answer, wrong, by_pos=False, layers=None):
        """Metrics of patching the clean run's z into the corrupted one, and of both unpatched runs.

        clean, corrupted [pair, pos]; answer, wrong [pair]. Returns (patched, clean, corrupted): patched is
        [layer, head, pair] or, by position, [layer, pos, head, pair], where positions before the first difference are
        the corrupted metric.
        """
        pairs, length = clean.shape
        first = int((clean != corrupted).any(0).nonzero()[0])
        source, base = self.run(clean), self.run(corrupted)
        clean_metric, corrupted_metric = (self.logit_diff(run.final[:, -1], answer, wrong)[0] for run in (source, base))
        rows = []
        for index in range(len(self.layers)) if layers is None else layers:
            layer = self.layers[index]
            change = (source.z[index] - base.z[index])[:, first:].unflatten(-1, (self.n_heads, self.d_head))
            w_o = layer.o.view(self.d_model, self.n_heads, self.d_head)
            delta = torch.einsum("bphe,dhe->hbpd", change, w_o)
            if by_pos:
                only = torch.eye(length - first, dtype=delta.dtype, device=delta.device)
                delta = torch.einsum("hbpd,pq->qhbpd", delta, only).flatten(0, 1)
            x = (base.resid_mid[index][:, first:] + delta).flatten(0, 1)
            if index == len(self.layers) - 1:
                x = x[:, -1:]
            x = x + self.mlp(x, layer)
            row = self.logit_diff(self.finish(x, index, first, base), answer, wrong)
            if by_pos:
                row = row.unflatten(0, (length - first, self.n_heads))
                row = torch.cat([corrupted_metric.expand(first, self.n_heads, pairs), row])
            rows.append(row)
        return torch.stack(rows), clean_metric, corrupted_metric
