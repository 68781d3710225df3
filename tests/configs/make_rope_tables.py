"""Writes rope_tables.json: rotary frequencies as Hugging Face transformers computes them, for tests/config.rs.

Each row has the keys of a Llama config, the prompt length, and `inv_freq` and `amplitude` of the rotary module after a
forward over that many positions.
"""
import json, pathlib, torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

def scaling(**keys):
    return dict(rope_scaling=keys)

n = 16  # half a head of 32
short = [1.0 + 0.05 * i for i in range(n)]
long = [1.5 + 0.75 * i for i in range(n)]
llama3 = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
CASES = [
    ("default", dict(), [7]),
    ("theta of a million", dict(rope_theta=1000000.0), [7]),
    ("linear", scaling(rope_type="linear", factor=4.0), [7]),
    ("llama3, factor 8", dict(rope_theta=500000.0, **scaling(factor=8.0, **llama3)), [7]),
    ("llama3, factor 32", dict(rope_theta=500000.0, **scaling(factor=32.0, **llama3)), [7]),
    ("dynamic", dict(max_position_embeddings=64, **scaling(rope_type="dynamic", factor=2.5)), [64, 65, 200]),
    ("yarn", scaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=512), [7]),
    ("yarn as in Qwen2.5", dict(rope_theta=1000000.0, max_position_embeddings=32768,
        **scaling(type="yarn", factor=4.0, original_max_position_embeddings=32768)), [7]),
    ("yarn with mscale", scaling(rope_type="yarn", factor=40.0, original_max_position_embeddings=256, mscale=1.0,
        mscale_all_dim=0.5, beta_fast=32, beta_slow=1), [7]),
    ("yarn not truncated", scaling(rope_type="yarn", factor=32.0, original_max_position_embeddings=1024,
        truncate=False, beta_fast=32.0, beta_slow=1.0), [7]),
    ("yarn with attention_factor", scaling(rope_type="yarn", factor=2.0, original_max_position_embeddings=512,
        attention_factor=0.9), [7]),
    ("longrope", dict(max_position_embeddings=4096, **scaling(rope_type="longrope", short_factor=short, long_factor=long,
        original_max_position_embeddings=128)), [128, 129]),
    ("longrope with factor", scaling(rope_type="longrope", short_factor=short, long_factor=long, factor=8.0,
        original_max_position_embeddings=128), [7, 500]),
]
rows = []
for name, keys, lengths in CASES:
    config = dict(hidden_size=128, num_attention_heads=4, num_hidden_layers=1, max_position_embeddings=2048,
        intermediate_size=8, vocab_size=8) | keys
    for length in lengths:
        rope = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(config))))
        rope(torch.zeros(1), torch.arange(length)[None])
        row = dict(name=name, config=config, length=length, amplitude=float(rope.attention_scaling))
        rows.append(row | dict(inv_freq=[float(x) for x in rope.inv_freq]))
lines = ",\n".join(json.dumps(row) for row in rows)
(pathlib.Path(__file__).parent / "rope_tables.json").write_text(f"[\n{lines}\n]\n")
