#!/usr/bin/env python3
"""Train patchwave's bundled demo model and measure its circuit.

    tools/train-demo.py            train, write src/demo/ and tests/fixtures/demo_effects.json, check everything
    tools/train-demo.py --check    measure the files that are there, check them, write nothing

The model is a two-layer GPT-2 over 96 English words. Its only task is to go on with a sequence that has begun to repeat
itself, so it learns induction: a previous-token head in layer 0 writes "my predecessor was A" at the place of B, and an
induction head in layer 1, standing on the second A, looks for that note and copies B (Elhage et al. 2021; Olsson et al.
2022). Nothing is set by hand: the weights come from AdamW alone.

Needs torch, transformers and tokenizers. One thread and one seed: a second run on the same machine and the same versions
writes the same bytes. About a minute.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "src" / "demo"
FIXTURE = ROOT / "tests" / "fixtures" / "demo_effects.json"

BOS = "<bos>"
WORDS = """
acorn apple badge baker beach berry blade board bread brick bridge brush cabin candle canoe castle chair cherry
clock cloud coin copper cotton crane creek crown desk door dove dream drum eagle ember engine fence field flame
flute forest fox garden gate ghost glass goat grape hammer harbor honey horse island jacket kettle knife ladder lake
lamp lemon lion maple market mirror moon mouse needle nest ocean olive onion owl paper peach pearl pencil piano pillow
planet plum pocket rabbit river rocket rose saddle salt shadow ship silver snake spoon star stone table tiger tower train
""".split()

CONTEXT = 32
SEED = 0
LEARNING_RATE = 3e-3
WARMUP = 50
WEIGHT_DECAY = 0.01
HEAD_PENALTY = 0.005
# (steps, sequences, tokens in each, most distinct words, share of replays, heads switched on in layer 0 and in layer 1)
PHASES = [
    (400, 64, 16, 8, 0.0, (1, 8)),
    (1000, 32, CONTEXT, CONTEXT - 2, 0.5, (1, 1)),
    (600, 32, CONTEXT, CONTEXT - 2, 0.5, (8, 8)),
]
# The head that trains from the start where only one does, [layer]. Which one is arbitrary: all heads begin alike.
FIRST_HEADS = [5, 3]

PAIRS = 32
PAIR_SEED = 1
PROMPT_WORDS = 16
# Places in the prompt, counted without the BOS. One layout for all pairs, so that a sweep by position is as readable as one
# by head. Training knows no layout.
LAYOUT = {"A1": 3, "B": 4, "C": 9, "D": 10, "A2": 15}


# --- the task -------------------------------------------------------------------------------------------------------


def training_batch(generator, sequences, tokens, most, replay_share):
    """`[sequences, tokens]` ids and, for each word, whether the words before it determine it, `[sequences, tokens - 1]`.

    Every sequence is a BOS and 4 to `most` distinct words, followed by one of two kinds of text:
    - a replay: from a random one of the words to the last, round and round; all but its first word is determined;
    - look-ups: disjoint pairs of neighbours in random order, twice; the second word of each pair is determined.
    Neither a place nor a distance tells the answer.
    """
    row = torch.arange(sequences)[:, None]
    words = torch.rand(sequences, len(WORDS), generator=generator).argsort(dim=1) + 1
    distinct = torch.randint(4, most + 1, (sequences, 1), generator=generator)
    place = torch.arange(tokens - 1).expand(sequences, -1)
    after = (place - distinct).clamp_min(0)

    start = (torch.rand(sequences, 1, generator=generator) * (distinct - 1)).long()
    replay = start + after % (distinct - start)

    first = torch.randint(0, 2, (sequences, 1), generator=generator)
    keys = (distinct - first) // 2
    shuffle = torch.rand(sequences, 2, CONTEXT // 2, generator=generator)
    order = (shuffle + (torch.arange(CONTEXT // 2) >= keys[:, None])).argsort(dim=-1)
    look_up = first + 2 * order[row, after // 2 // keys % 2, after // 2 % keys] + after % 2

    replays = torch.rand(sequences, 1, generator=generator) < replay_share
    again = torch.where(replays, replay, look_up)
    ids = words.gather(1, torch.where(place < distinct, place, again))
    determined = (place > distinct) & (replays | (after % 2 == 1))
    return torch.cat([torch.zeros(sequences, 1, dtype=torch.long), ids], dim=1), determined


def make_pairs():
    """The bundled pairs: `A B … C D … A` and the same with the keys A and C exchanged where they stand first."""
    generator = torch.Generator().manual_seed(PAIR_SEED)
    pairs = []
    for _ in range(PAIRS):
        chosen = torch.randperm(len(WORDS), generator=generator)[: PROMPT_WORDS - 1]
        clean = [WORDS[i] for i in chosen] + [WORDS[chosen[LAYOUT["A1"]]]]
        corrupted = list(clean)
        corrupted[LAYOUT["A1"]], corrupted[LAYOUT["C"]] = clean[LAYOUT["C"]], clean[LAYOUT["A1"]]
        pairs.append({
            "clean": " ".join(clean),
            "corrupted": " ".join(corrupted),
            "answer": " " + clean[LAYOUT["B"]],
            "wrong": " " + clean[LAYOUT["D"]],
            "positions": LAYOUT,
        })
    return pairs


# --- training -------------------------------------------------------------------------------------------------------


def new_model():
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=len(WORDS) + 1, n_positions=CONTEXT, n_embd=128, n_layer=2, n_head=8, n_inner=64,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=None, use_cache=False,
        attn_implementation="eager",
    ))


class Heads:
    """While open: switches heads off, and keeps the mean norm of what each adds to the residual stream, `[n_layer, n_head]`."""

    def __init__(self, model):
        self.count, self.norms, self.on = model.config.n_head, {}, {}
        self.hooks = [
            block.attn.c_proj.register_forward_pre_hook(self.hook(layer)) for layer, block in enumerate(model.transformer.h)
        ]

    def switch_on(self, counts):
        """All heads of a layer, or only the one of `FIRST_HEADS`."""
        for layer, (first, count) in enumerate(zip(FIRST_HEADS, counts)):
            self.on[layer] = torch.ones(self.count, 1)
            if count == 1:
                self.on[layer][torch.arange(self.count) != first] = 0.0

    def hook(self, layer):
        def hook(projection, args):
            z = args[0].unflatten(-1, (self.count, -1)) * self.on[layer]
            weight = projection.weight.unflatten(0, (self.count, -1))
            gram = weight @ weight.transpose(1, 2)
            squares = (torch.einsum("bthe,hef->bthf", z, gram) * z).sum(-1)
            self.norms[layer] = squares.clamp_min(0).add(1e-8).sqrt().mean((0, 1))
            return (z.flatten(-2),)

        return hook

    def read(self):
        return torch.stack([self.norms[layer] for layer in sorted(self.norms)])

    def close(self):
        for hook in self.hooks:
            hook.remove()


def train():
    """Three phases: short sequences with one head in layer 0; long ones with one head in each layer; long ones with all heads.

    With all heads on from the start, training found another circuit: some heads of layer 0 look back one place and some
    two, and layer 1 reads A and B together from the place after B. With a single head in layer 0 the textbook's circuit is the
    easier one to find. The last phase lets every head learn, and charges each for its output (a group lasso), so that a
    head which only echoes another fades away.
    """
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = new_model()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    heads, began, step = Heads(model), time.time(), 0
    total = sum(phase[0] for phase in PHASES)
    for steps, sequences, tokens, most, replay_share, on in PHASES:
        heads.switch_on(on)
        for _ in range(steps):
            rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            ids, determined = training_batch(generator, sequences, tokens, most, replay_share)
            loss = functional.cross_entropy(model(ids).logits[:, :-1][determined], ids[:, 1:][determined])
            penalty = heads.read().sum()
            optimizer.zero_grad(set_to_none=True)
            (loss + HEAD_PENALTY * penalty if on == (8, 8) else loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 100 == 0:
                figures = f"loss {loss.item():.4f}  head norms {penalty.item():6.2f}"
                print(f"step {step:5}  {figures}  {time.time() - began:4.0f} s", flush=True)
    heads.close()
    model.config.use_cache = True
    return model.eval()


# --- measuring ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def run(model, ids, patch=None):
    """Logits at the last token, z of every layer and the patterns; `patch` = (layer, head, positions, z of the other run)."""
    z, hooks, size = [], [], model.config.n_embd // model.config.n_head

    def keep(_, args):
        z.append(args[0].clone())

    def replace(_, args):
        layer, head, positions, source = patch
        patched = args[0].clone()
        columns = slice(head * size, (head + 1) * size)
        patched[:, positions, columns] = source[layer][:, positions, columns]
        return (patched,)

    for block in model.transformer.h:
        hooks.append(block.attn.c_proj.register_forward_pre_hook(keep))
    if patch is not None:
        hooks.append(model.transformer.h[patch[0]].attn.c_proj.register_forward_pre_hook(replace))
    out = model(ids, output_attentions=True)
    for hook in hooks:
        hook.remove()
    return out.logits[:, -1], z, torch.stack(out.attentions)


def encode(tokenizer, texts):
    return torch.tensor([[0] + tokenizer.encode(text, add_special_tokens=False) for text in texts])


def measure(model, tokenizer, pairs):
    """Effects of patching each head's z at all positions (denoising, logit_diff) and the two scores of each head."""
    clean_ids = encode(tokenizer, [p["clean"] for p in pairs])
    corrupted_ids = encode(tokenizer, [p["corrupted"] for p in pairs])
    answers, wrongs = [], []
    for pair in pairs:
        for field, column in (("answer", answers), ("wrong", wrongs)):
            prompt = tokenizer.encode(pair["clean"], add_special_tokens=False)
            longer = tokenizer.encode(pair["clean"] + pair[field], add_special_tokens=False)
            assert longer[:-1] == prompt, f"{pair[field]!r} is not one token after its prompt"
            column.append(longer[-1])
    answers, wrongs, rows = torch.tensor(answers), torch.tensor(wrongs), torch.arange(len(pairs))

    def metric(logits):
        return (logits[rows, answers] - logits[rows, wrongs]).double()

    logits, source, pattern = run(model, clean_ids)
    m_clean = metric(logits)
    m_corrupted = metric(run(model, corrupted_ids)[0])
    gap = m_clean.mean() - m_corrupted.mean()
    layers, heads = model.config.n_layer, model.config.n_head

    def effect_of(layer, head, positions):
        patched = metric(run(model, corrupted_ids, (layer, head, positions, source))[0])
        return ((patched.mean() - m_corrupted.mean()) / gap).item()

    cells = [[(l, h) for h in range(heads)] for l in range(layers)]
    effect = torch.tensor([[effect_of(l, h, slice(None)) for l, h in row] for row in cells])
    places = [slice(p, p + 1) for p in range(clean_ids.shape[1])]
    by_position = torch.tensor([[[effect_of(l, h, p) for p in places] for l, h in row] for row in cells])

    # pattern is [layer, pair, head, destination, source]; the BOS shifts the prompt's own places by one.
    previous = pattern.diagonal(-1, 3, 4).mean((1, 3))
    induction = pattern[..., -1, LAYOUT["B"] + 1].mean(1)
    # The usual score: the prompt's 15 distinct words, twice; from a word of the second round to what followed it in the first.
    once = clean_ids[:, 1:PROMPT_WORDS]
    repeated = run(model, torch.cat([clean_ids[:, :1], once, once], dim=1))[2]
    offset = once.shape[1] - 1
    repeated = repeated.diagonal(-offset, 3, 4)[..., 2:].mean((1, 3))
    return {
        "m_clean": m_clean, "m_corrupted": m_corrupted, "effect": effect, "effect_by_position": by_position,
        "previous_token": previous,
        "induction": induction, "induction_repeated": repeated,
    }


@torch.no_grad()
def recall_anywhere(model):
    """Share of right answers where the rule determines them, on fresh training sequences: no layout, no fixed length."""
    generator = torch.Generator().manual_seed(PAIR_SEED + 1)
    ids, determined = training_batch(generator, 256, CONTEXT, CONTEXT - 2, 0.5)
    right = model(ids).logits[:, :-1].argmax(-1) == ids[:, 1:]
    return right[determined].float().mean().item()


def table(result):
    print("\nhead    effect   previous-token   induction   induction (repeated)")
    for layer, heads in enumerate(result["effect"].tolist()):
        for head, effect in enumerate(heads):
            scores = [result[k][layer, head].item() for k in ("previous_token", "induction", "induction_repeated")]
            print(f"a{layer}.h{head}  {effect:8.4f}   {scores[0]:14.4f}   {scores[1]:9.4f}   {scores[2]:20.4f}")
    print("\nby head and position (BOS is 0), |effect| above 0.01:")
    for layer, head, place in (result["effect_by_position"].abs() > 0.01).nonzero().tolist():
        print(f"a{layer}.h{head} at {place:2}  {result['effect_by_position'][layer, head, place]:8.4f}")
    size = result["effect"].abs().flatten().sort(descending=True).values
    print(f"\n|effect|: largest {size[0]:.4f}, second {size[1]:.4f}, third {size[2]:.4f}, median {size.median():.4f}")
    print(f"logit_diff: clean {result['m_clean'].mean():.4f}, corrupted {result['m_corrupted'].mean():.4f}; right in "
          f"{(result['m_clean'] > 0).sum()} clean and {(result['m_corrupted'] < 0).sum()} corrupted of {PAIRS} pairs")


def check(result, recall):
    """What the README and the tests promise about these weights."""
    size = result["effect"].abs().flatten()
    order = size.argsort(descending=True)
    previous, induction = result["previous_token"].flatten(), result["induction"].flatten()
    repeated = result["induction_repeated"].flatten()
    promises = {
        "the previous-token head's score is at least 0.8": previous.max() >= 0.8,
        "the induction head's score is at least 0.8": induction.max() >= 0.8 and repeated.max() >= 0.8,
        "both induction scores name the same head": induction.argmax() == repeated.argmax(),
        "the previous-token head is in layer 0, the induction head in layer 1": previous.argmax() < 8 <= induction.argmax(),
        "these two are the largest cells": {int(previous.argmax()), int(induction.argmax())} == set(order[:2].tolist()),
        "both effects exceed 0.3": size[order[1]] > 0.3,
        "the third is below half the second": size[order[2]] < 0.5 * size[order[1]],
        "the median is below 0.03": size.median() < 0.03,
        "clean prompts are answered right": (result["m_clean"] > 0).float().mean() >= 0.95,
        "corrupted prompts are answered wrong": (result["m_corrupted"] < 0).float().mean() >= 0.95,
        "recall is right at any place and distance": recall >= 0.95,
    }
    for promise, kept in promises.items():
        print(f"{'ok    ' if kept else 'BROKEN'}  {promise}")
    return all(promises.values())


# --- files ----------------------------------------------------------------------------------------------------------


def write_model(model):
    DEMO.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(DEMO)
    (DEMO / "model.safetensors").chmod(0o644)
    (DEMO / "generation_config.json").unlink(missing_ok=True)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([BOS, *WORDS])}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([BOS])
    tokenizer.save(str(DEMO / "tokenizer.json"))
    config = {"bos_token": BOS, "model_max_length": CONTEXT, "tokenizer_class": "PreTrainedTokenizerFast"}
    (DEMO / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (DEMO / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in make_pairs()))


def fixture_of(result):
    keys = ["m_clean", "m_corrupted", "effect", "effect_by_position", "previous_token", "induction", "induction_repeated"]
    return {
        "about": "Hugging Face, float32, from tools/train-demo.py over src/demo/pairs.jsonl: z of a head patched, denoising, "
        "logit_diff. effect is [layer][head] for all positions, effect_by_position [layer][head][position] with the BOS at 0, "
        "metric_clean and metric_corrupted [pair]. Scores are [layer][head]. previous_token: mean attention from i to i-1 over "
        "i >= 1 in the clean runs. induction: attention from the last token to B in the clean runs. induction_repeated: "
        "BOS, then a clean prompt's first 15 words twice; mean attention from i to i-14 over the second round.",
        "metric_clean_mean": result["m_clean"].mean().item(),
        "metric_corrupted_mean": result["m_corrupted"].mean().item(),
        **{key.replace("m_", "metric_"): result[key].tolist() for key in keys},
    }


def write_fixture(result):
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in fixture_of(result).items())
    FIXTURE.parent.mkdir(parents=True, exist_ok=True)
    FIXTURE.write_text("{\n" + lines + "\n}\n")


def fixture_agrees(result):
    """Whether the recorded numbers are the measured ones, to 1e-5 (of a logit for the metrics, 1e-4)."""
    recorded, measured = json.loads(FIXTURE.read_text()), fixture_of(result)
    assert recorded.keys() == measured.keys()
    for key in measured.keys() - {"about"}:
        bound = 1e-4 if key.startswith("metric") else 1e-5
        if (torch.tensor(recorded[key]) - torch.tensor(measured[key])).abs().max() > bound:
            return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="measure and check the files that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    assert len(set(WORDS)) == len(WORDS)
    if not arguments.check:
        write_model(train())
    # Everything below is measured on what was written, not on what is in memory.
    model = GPT2LMHeadModel.from_pretrained(DEMO, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    pairs = [json.loads(line) for line in (DEMO / "pairs.jsonl").read_text().splitlines()]
    result = measure(model, tokenizer, pairs)
    table(result)
    kept = check(result, recall_anywhere(model))
    if arguments.check:
        agrees = fixture_agrees(result)
        print(f"{'ok    ' if agrees else 'BROKEN'}  tests/fixtures/demo_effects.json has these numbers")
        kept = kept and agrees
    else:
        write_fixture(result)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
