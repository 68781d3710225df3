"""Writes tiny/<case>.json: {config, config_v5, tensors} of small models that transformers made.

`config` is the spelling of transformers 4, `config_v5` what transformers 5 saves for the same model, `tensors` the names
and shapes in model.safetensors. Usage: make_tiny.py FOLDER, with FOLDER/<case>/{config.json,config_v5.json,model.safetensors}.
"""
import json, pathlib, sys
from safetensors import safe_open

CASES = """gpt2 gpt2_mistral gpt_neox gpt_neox_seq llama llama31 llama_linear llama_dynamic llama_yarn llama_bias_tied
mistral qwen2 qwen2_swa qwen3 smollm3""".split()
here = pathlib.Path(__file__).parent / "tiny"
for case in CASES:
    folder = pathlib.Path(sys.argv[1]) / case
    out = {key: json.loads((folder / f"{key}.json").read_text()) for key in ("config", "config_v5")}
    with safe_open(folder / "model.safetensors", "pt") as f:
        out["tensors"] = {name: f.get_slice(name).get_shape() for name in sorted(f.keys())}
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in out.items()]
    (here / f"{case}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
