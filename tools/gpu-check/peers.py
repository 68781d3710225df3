"""The head sweep of two random models by patchwave, TransformerLens and hand-optimised PyTorch, on one device.

    python3 peers.py --patchwave bin/patchwave --device cuda:0 --work FOLDER [--small]

GPT-2 small's shape and a Llama of the same size with random weights, 32 pairs of 15 tokens that differ from the sixth on;
z of every head at all positions, denoising, logit difference, float32 (no TF32). What is timed is the sweep alone, both
unpatched runs of patchwave and of PyTorch included, TransformerLens's clean run left out: wall seconds, the best of three
in turn. Patched metrics are compared, not effects, whose denominator is small where weights are random.

Prints a line `row, check, result, figure` for each. Needs torch, safetensors and numpy; TransformerLens and transformers
if they are there. See tools/compare-tl for the same on a CPU with a real model.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PAIRS, LENGTH, FIRST_DIFFERENCE = 32, 15, 5
# Largest difference of a patched metric between two float32 implementations, as a share of the mean |clean metric|.
SAME = 2e-5
ROUNDS = 3


def gpt2(width, layers, heads, vocab):
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads,
        "n_positions": 64, "n_ctx": 64, "vocab_size": vocab, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    shapes = {"wte.weight": (vocab, width), "wpe.weight": (64, width), "ln_f.weight": (width,), "ln_f.bias": (width,)}
    for layer in range(layers):
        for name, shape in {
            "attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width),
        }.items():  # fmt: skip
            shapes[f"h.{layer}.{name}.weight"], shapes[f"h.{layer}.{name}.bias"] = shape, shape[1:]
        for name in ("ln_1", "ln_2"):
            shapes[f"h.{layer}.{name}.weight"] = shapes[f"h.{layer}.{name}.bias"] = (width,)
    return config, shapes


def llama(width, layers, heads, vocab):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "intermediate_size": 4 * width,
        "vocab_size": vocab, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    shapes = {"model.embed_tokens.weight": (vocab, width), "model.norm.weight": (width,)}
    for layer in range(layers):
        for name in ("q", "k", "v", "o"):
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = (width, width)
        for name in ("gate", "up"):
            shapes[f"model.layers.{layer}.mlp.{name}_proj.weight"] = (4 * width, width)
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (width, 4 * width)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (width,)
    return config, shapes


def write_model(folder, config, shapes, seed=0):
    """Weights of about unit gain, norms of 1, no biases."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    # Prompts are ids, but Hugging Face's loaders want a tokenizer for some families.
    words = {"type": "WordLevel", "vocab": {"<s>": 0}, "unk_token": "<s>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": words}))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    random = torch.Generator().manual_seed(seed)

    def weight(name, shape):
        if len(shape) == 1:
            return torch.full(shape, 0.0 if name.endswith("bias") else 1.0)
        fan_in = shape[0] if ".c_" in name else shape[1]
        return torch.randn(shape, generator=random) / fan_in**0.5

    weights = {name: weight(name, shape) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_pairs(path, vocab, seed=1):
    random = torch.Generator().manual_seed(seed)
    clean = torch.randint(vocab, (PAIRS, LENGTH), generator=random)
    corrupted = clean.clone()
    for position in (FIRST_DIFFERENCE, FIRST_DIFFERENCE + 5):
        corrupted[:, position] = (clean[:, position] + 1) % vocab
    answer, wrong = (torch.randint(half, half + vocab // 2, (PAIRS,), generator=random) for half in (0, vocab // 2))
    with open(path, "w") as file:
        for each in zip(clean.tolist(), corrupted.tolist(), answer.tolist(), wrong.tolist(), strict=True):
            file.write(json.dumps(dict(zip(("clean", "corrupted", "answer", "wrong"), each, strict=True))) + "\n")
    return clean, corrupted, answer, wrong


class Patchwave:
    def __init__(self, args, folder, prompts, work):
        self.command = [args.patchwave, "sweep", "--model", folder, "--prompts", prompts, "--bos", "never"]
        self.command += ["--device", args.device, "--verify", "0", "--force", "--output", work / f"run-{folder.name}"]
        self.run = work / f"run-{folder.name}"

    def sweep(self):
        done = subprocess.run([str(part) for part in self.command], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        seconds = json.loads((self.run / "run.json").read_text())["seconds"]
        tensors = load_file(self.run / "effects.safetensors")
        self.scale = tensors["metric_clean"].double().abs().sum()
        return seconds, tensors["metric"].double().sum(-1)


class Torch:
    """Timing of work that may still be under way on a GPU when the call returns."""

    def __init__(self, device, data):
        self.device = device
        self.clean, self.corrupted, self.answer, self.wrong = (part.to(device) for part in data)

    def wait(self):
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def sweep(self):
        self.wait()
        started = time.monotonic()
        metric = self.metric_of_all()
        self.wait()
        return time.monotonic() - started, metric.double().cpu()


class FastTorch(Torch):
    def __init__(self, device, folder, data):
        super().__init__(device, data)
        from fast_torch import FastLlama

        self.model = FastLlama(folder, device=device)

    def metric_of_all(self):
        return self.model.sweep(self.clean, self.corrupted, self.answer, self.wrong)[0].double().sum(-1)


class TransformerLens(Torch):
    def __init__(self, device, folder, data):
        super().__init__(device, data)
        from transformer_lens import patching
        from transformer_lens.model_bridge import TransformerBridge

        patching.tqdm = lambda rows, **_: rows
        self.patching = patching
        self.model = TransformerBridge.boot_transformers(str(folder), device=device, dtype=torch.float32)
        self.model.eval()
        _, self.cache = self.model.run_with_cache(self.clean, names_filter=lambda name: name.endswith("hook_z"))

    def summed_logit_diff(self, logits):
        rows = torch.arange(len(self.answer), device=logits.device)
        return (logits[rows, -1, self.answer] - logits[rows, -1, self.wrong]).sum()

    def metric_of_all(self):
        return self.patching.get_act_patch_attn_head_out_all_pos(
            self.model, self.corrupted, self.cache, self.summed_logit_diff
        )


def row(check, result, figure):
    print("row", check, result, " ".join(str(figure).split()), sep="\t", flush=True)


def first_line(error):
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]


def compare(name, ours, folder, data, device):
    tools = {"TransformerLens": TransformerLens}
    if name == "llama":
        tools["hand-optimised PyTorch"] = FastTorch
    best, metrics = {}, {}
    opened = {}
    for tool, make in tools.items():
        try:
            opened[tool] = make(device, folder, data)
            opened[tool].sweep()
        except Exception as error:  # not there, or it cannot open the model: the others go on
            opened.pop(tool, None)
            row(f"{name}: against {tool}", "not run", first_line(error))
    opened["patchwave"] = ours
    for _ in range(ROUNDS):
        for tool, opened_tool in opened.items():
            seconds, metrics[tool] = opened_tool.sweep()
            best[tool] = min(best.get(tool, seconds), seconds)
    cells = metrics["patchwave"].numel()
    row(f"{name}: patchwave alone", "pass", f"{cells} heads × {PAIRS} pairs in {best['patchwave'] * 1e3:.1f} ms")
    for tool in tools:
        if tool not in metrics:
            continue
        worst = (metrics[tool].reshape(-1) - metrics["patchwave"].reshape(-1)).abs().max().item() / ours.scale.item()
        ratio = best[tool] / best["patchwave"]
        figure = f"metrics differ by {worst:.1e} at most; {best[tool] * 1e3:.1f} ms, {ratio:.1f} times patchwave's"
        row(f"{name}: against {tool}", "pass" if worst <= SAME else "fail", figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patchwave", type=Path, required=True)
    parser.add_argument("--device", required=True, help="cuda:N; emulated compares with PyTorch on the CPU")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and runs")
    parser.add_argument("--small", action="store_true", help="models of two layers")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = "cpu" if args.device == "emulated" else args.device
    if device != "cpu" and not torch.cuda.is_available():
        row("against PyTorch and TransformerLens", "not run", "this PyTorch finds no GPU")
        return
    size = (32, 2, 2, 96) if args.small else (768, 12, 12, 50257)
    for name, make in (("gpt2", gpt2), ("llama", llama)):
        folder = args.work / name
        config, shapes = make(*size)
        write_model(folder, config, shapes)
        prompts = args.work / f"{name}.jsonl"
        data = write_pairs(prompts, size[-1])
        try:
            compare(name, Patchwave(args, folder, prompts, args.work), folder, data, device)
        except Exception as error:
            row(f"{name}: patchwave alone", "fail", first_line(error))
        finally:
            (folder / "model.safetensors").unlink()  # the report is made to be committed


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    main()
