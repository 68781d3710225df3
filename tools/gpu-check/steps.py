"""The steps of tools/gpu-check/run, in their order. Each adds rows to the report, whatever comes of it."""

import csv
import hashlib
import json
import os
import platform
import re
import shutil
from collections import defaultdict
from pathlib import Path

from report import FAIL, NOT_RUN, PASS

# Seconds that one command may take.
TEST, SWEEP, BENCH, PEERS, SANITIZED = 300, 600, 900, 1200, 600
# Nothing is begun with less time left.
LEAST = 5
# Test modules that are about the emulator, or about the tests' own helpers: `emulator` plants bugs and runs schedules.
NOT_ON_DEVICE = ("emulator::", "emulator_sm90::", "support::", "conformance::")
# Of a kernel that only cards of compute capability 9.0 have.
HOPPER = "gemm_sm90::"
# What a rehearsal runs of the others: one test of each kind that is quick on the emulator.
REHEARSED = (
    "attention::every_option",
    "gemm::alignment",
    "gemm_sm90::a_row",
    "metrics::logits",
    "patches::",
    "rows::rope",
    "the_demo_gives",
)
# Under compute-sanitizer with --quick: a test of every kernel.
SANITIZED_QUICKLY = (
    "attention::every_option",
    "attention::scores_are_changed",
    "attention::long_prompts",
    "epilogue::additions",
    "gemm::alignment",
    "gemm::head_deltas",
    "gemm_sm90::head_deltas",
    "gemm_sm90::which",
    "metrics::",
    "patches::",
    "rows::rope",
    "rows::rows_are_scaled",
    "rows::embedding",
)
# Largest difference of a patched metric from the CPU's and from the reference path's, by precision, as a share of the larger of
# the unpatched runs' mean metrics, of 1 at least. Effects are no measure where clean and corrupted are near.
METRIC_ERROR = {"float32": 2e-5, "bf16x3": 5e-4, "bfloat16": 5e-2}
MODELS = ("gpt2", "pythia-1.4b", "llama-3-8b")


class Context:
    def __init__(self, args, bundle, report):
        self.args, self.bundle, self.report = args, bundle, report
        self.opened = None
        self.patchwave = bundle / "bin/patchwave"
        self.environment = {
            "PATCHWAVE_TEST_DEVICE": args.device,
            "PATCHWAVE_FIXTURES": str(bundle / "fixtures"),
            "RUST_BACKTRACE": "0",
        }

    def command(self, name, command, limit, **environment):
        return self.report.command(name, command, limit, {**self.environment, **environment})

    def device(self):
        """What the device says that it is, or None where it does not open; and how that went."""
        if self.opened is None:
            self.opened = self.test("kernels", "conformance::the_device_opens", "device")
        said = re.search(r"device: (.*)$", self.opened.said, re.M)
        return said[1] if self.opened.ok and said else None

    def tests(self, binary):
        """Names of a binary's tests that are for the device."""
        done = self.command(f"{binary}-list", [self.bundle / "bin" / binary, "--list", "--format", "terse"], TEST)
        names = [line[: -len(": test")] for line in done.said.splitlines() if line.endswith(": test")]
        names = [name for name in names if not name.startswith(NOT_ON_DEVICE)]
        if not (self.device() or "").endswith("capability 9.0"):
            names = [name for name in names if not name.startswith(HOPPER)]
        if self.args.rehearse:
            names = [name for name in names if name.startswith(REHEARSED)]
        if not names:
            raise RuntimeError(f"{binary} lists no tests: {done.why()}")
        return names

    def test(self, binary, name, log, limit=TEST, before=(), **environment):
        """One test in a process of its own: a kernel that fails takes the whole process's GPU with it."""
        command = [*before, self.bundle / "bin" / binary, "--exact", name, "--nocapture", "--test-threads", "1"]
        done = self.command(log, command, limit, **environment)
        if done.ok and "1 passed" not in done.said:
            done.code = 1
        return done


def file_hash(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def machine(context):
    """Facts for the report's end."""
    facts, report = context.report.facts, context.report
    query = "name,compute_cap,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,ecc.mode.current"
    if context.args.emulated:
        facts.append(("GPU", "none: the kernels run on the CPU, on the emulator"))
    elif shutil.which("nvidia-smi"):
        smi = context.command("nvidia-smi-query", ["nvidia-smi", f"--query-gpu={query}", "--format=csv"], 60)
        facts += [("nvidia-smi", line) for line in smi.said.splitlines()]
        context.command("nvidia-smi", ["nvidia-smi", "-q"], 60)
    else:
        facts.append(("nvidia-smi", "not found"))
    try:
        models = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        models = []
    facts.append(("CPU", f"{len(models) or os.cpu_count()} × {models[0] if models else platform.processor()}"))
    facts.append(("system", f"{platform.platform()}, {' '.join(platform.libc_ver())}, Python {platform.python_version()}"))
    about = json.loads((context.bundle / "bundle.json").read_text())
    changed = f", {len(about['changed'])} files changed" if about["changed"] else ""
    facts.append(("patchwave", f"commit {about['commit']}{changed}, {about['rustc']}, built on {about['built on']}"))
    for name in sorted(os.listdir(context.bundle / "bin")):
        there = file_hash(context.bundle / "bin" / name)
        facts.append((f"sha256 of {name}", there))
        if about["sha256"].get(name) != there:
            report.row(f"bin/{name} as it was bundled", FAIL, "another file than bundle.json says")
    for name, hashed in about["kernels"].items():
        facts.append((f"sha256 of {name}.cu with gpu.cuh", hashed))


def device(context):
    """Whether it opens at all, with the kernels for it."""
    said = context.device()
    context.report.row("the device opens", PASS if said else FAIL, said or context.opened.why())


def conformance(context):
    """The primitives of gpu.cuh against what the emulator made of them."""
    check = "primitives of gpu.cuh as recorded"
    folder = context.bundle / "conformance"
    if not context.args.emulated and not list(folder.glob("conformance.*")):
        context.report.row(check, NOT_RUN, "the bundle was made without the compiled conformance kernels")
        return
    name = "conformance::primitives_give_what_was_recorded"
    done = context.test("kernels", name, "conformance", PATCHWAVE_CONFORMANCE=str(folder))
    said = re.findall(r"\b(conformance_[\w-]+: .*)$", done.said, re.M)
    wrong = [line for line in said if not line.endswith((": ok", ": not for this card"))]
    good = sum(line.endswith(": ok") for line in said)
    if done.ok and good and not wrong:
        elsewhere = len(said) - good
        others = f", {elsewhere} are for other cards" if elsewhere else ""
        context.report.row(check, PASS, f"{good} kernels{others}")
    else:
        context.report.row(check, FAIL, "; ".join(dict.fromkeys(wrong)) or done.why())


def kernel_tests(context):
    """Every kernel against float64, a row for each file of tests; then whole sweeps through the kernels."""
    groups = defaultdict(list)
    for name in context.tests("kernels"):
        groups[name.split("::")[0]].append(("kernels", name))
    for name in context.tests("sweeps"):
        groups["whole sweeps"].append(("sweeps", name))
    for group, tests in groups.items():
        failed, seconds = [], 0.0
        late = 0
        for binary, name in tests:
            if context.report.left() < LEAST:
                late += 1
                continue
            done = context.test(binary, name, f"test-{name.replace('::', '-')}", SWEEP if binary == "sweeps" else TEST)
            seconds += done.seconds
            if not done.ok:
                failed.append(f"{name.split('::')[-1]} ({done.why()})")
        figure = [f"{len(tests) - len(failed) - late} of {len(tests)} tests, {seconds:.0f} s"]
        figure += [f"{late} had no time left"] if late else []
        result = FAIL if failed else NOT_RUN if late else PASS
        context.report.row(f"tests: {group}", result, "; ".join(figure + some(failed)))


def some(wrong, most=3):
    """The first few of a list for a table."""
    return wrong[:most] + ([f"and {len(wrong) - most} more"] if len(wrong) > most else [])


def sanitizer_errors(said):
    """Errors that compute-sanitizer counts, or None where it has printed no summary."""
    summaries = re.findall(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", said)
    return sum(int(errors or hazards) for errors, hazards in summaries) if summaries else None


def sanitizer(context):
    """compute-sanitizer over tests of every kernel; every buffer is an allocation of its own there."""
    tools = ["memcheck", "racecheck"] + ([] if context.args.quick else ["synccheck", "initcheck"])
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = os.pathsep.join([os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)])
    program = shutil.which("compute-sanitizer", path=places)
    if program is None:
        for tool in tools:
            context.report.row(f"compute-sanitizer {tool}", NOT_RUN, "compute-sanitizer is not installed")
        return
    names = context.tests("kernels")
    if context.args.quick:
        names = [name for name in names if name.startswith(SANITIZED_QUICKLY)]
    for tool in tools:
        errors, ran, wrong = 0, 0, []
        for name in names:
            if context.report.left() < 6 * LEAST:
                break
            before = [program, "--tool", tool, "--error-exitcode", "9"]
            log = f"{tool}-{name.replace('::', '-')}"
            done = context.test("kernels", name, log, SANITIZED, before, PATCHWAVE_TEST_MEMORY="exact")
            counted = sanitizer_errors(done.said)
            ran, errors = ran + 1, errors + (counted or 0)
            if not done.ok or counted != 0:
                wrong.append(f"{name} ({f'{counted} errors' if counted else done.why()})")
        figure = [f"{ran} of {len(names)} tests, {errors} errors"]
        figure += ["no time left for the others"] if ran < len(names) else []
        result = FAIL if wrong else PASS if ran else NOT_RUN
        context.report.row(f"compute-sanitizer {tool}", result, "; ".join(figure + some(wrong)))


def worst_difference(path):
    """The largest |difference| of a table of `patchwave diff`, and the number of cells."""
    with open(path, newline="") as file:
        differences = [abs(float(row["difference"])) for row in csv.DictReader(file) if row["difference"]]
    if not differences:
        raise RuntimeError(f"{path}: no cell in it")
    return max(differences), len(differences)


def sweep_of(context, name, about, cases):
    """Sweeps of one model on the device, in each precision against the CPU's effects; the first one twice."""
    report, folder = context.report, context.report.folder / "runs"
    device = "emulated" if context.args.emulated else context.args.device

    def sweep(run, where, dtype, options, verify):
        command = [context.patchwave, "sweep", *about, *options, "--device", where, "--dtype", dtype]
        command += ["--verify", verify, "--output", folder / run, "--force"]
        return context.command(f"sweep-{run}", command, SWEEP)

    for label, options, precisions in cases:
        base = f"{name}-{label}"
        cpu = sweep(f"{base}-cpu", "cpu", "float32", options, 0)
        if not cpu.ok:
            report.row(f"sweep of {name} by {label}", FAIL, f"on the CPU: {cpu.why()}")
            continue
        for dtype in precisions:
            check, run = f"sweep of {name} by {label}, {dtype}, against the CPU", f"{base}-{dtype}"
            done = sweep(run, device, dtype, options, 32)
            if not done.ok:
                report.row(check, FAIL, done.why())
                continue
            table = folder / run / "difference-from-cpu.csv"
            command = [context.patchwave, "diff", folder / f"{base}-cpu", folder / run, "--csv", table]
            compared = context.command(f"diff-{run}", [*command, "--output", folder / run / "difference.html"], TEST)
            if not compared.ok:
                report.row(check, FAIL, compared.why())
                continue
            worst, cells = worst_difference(table)
            about_run = json.loads((folder / run / "run.json").read_text())
            clean, corrupted = about_run["mean_metric_clean"], about_run["mean_metric_corrupted"]
            size, noise = max(1.0, abs(clean), abs(corrupted)), about_run["noise_floor"]
            share = worst * abs(clean - corrupted) / size
            cpu_seconds = json.loads((folder / f"{base}-cpu/run.json").read_text())["seconds"]
            figure = f"effects differ by {worst:.1e}, metrics by {share:.1e} of the largest over {cells} cells, "
            figure += f"noise floor {noise:.1e}, "
            figure += f"{about_run['seconds']:.3f} s (CPU {cpu_seconds:.3f} s)"
            report.row(check, PASS if max(share, noise / size) <= METRIC_ERROR[dtype] else FAIL, figure)
        dtype = precisions[0]
        again = sweep(f"{base}-{dtype}-again", device, dtype, options, 0)
        files = [folder / run / "effects.safetensors" for run in (f"{base}-{dtype}", f"{base}-{dtype}-again")]
        check = f"sweep of {name} by {label}, twice"
        if not again.ok or not all(file.exists() for file in files):
            report.row(check, FAIL, again.why())
        else:
            same = file_hash(files[0]) == file_hash(files[1])
            report.row(check, PASS if same else FAIL, "the same bytes" if same else "other bytes")


def sweeps(context):
    """The bundled demo model, and the one that was asked for."""
    every = ["float32", "bf16x3", "bfloat16"]
    all_sites = ["--sites", "resid_pre,attn_out,mlp_out", "--by", "pos"]
    few = ["--layers", "1"] if context.args.rehearse else []
    cases = [("head", few, every), ("pos", [*all_sites, *few], ["float32"])]
    if not context.args.rehearse:
        cases.append(("head,pos", ["--by", "head,pos"], ["float32"]))
    sweep_of(context, "demo", [], cases)
    if context.args.model:
        pairs = ["--prompts", context.args.prompts] if context.args.prompts else ["--task", "ioi", "--pairs", "32"]
        sweep_of(context, "model", ["--model", context.args.model, *pairs], [("head", [], every)])
    else:
        context.report.row("sweep of a real model", NOT_RUN, "no --model")


def rate(flops):
    """FLOP/s for a table."""
    unit, name = next(((u, n) for u, n in ((1e12, "TFLOP/s"), (1e9, "GFLOP/s")) if flops >= u), (1e6, "MFLOP/s"))
    return f"{flops / unit:.3g} {name}"


def figure_of_kernels(report):
    """Of each precision the fastest product, as a share of the ceiling and of cuBLAS."""
    parts = []
    for ceiling in report["ceilings"]["products"]:
        precision = ceiling["precision"]
        products = [k for k in report["kernels"] if k["op"] == "gemm" and k["precision"] == precision]
        best = max(products, key=lambda k: k["flops_per_second"], default=None)
        if best is None:
            continue
        speed = best["flops_per_second"]
        part = f"{precision} {rate(speed)}, {100 * speed / ceiling['flops']:.0f} % of the"
        part += f" large product, error {best['error']['max']:.1e}" if best["error"] else " large product"
        if best["rival"]:
            part += f", {best['rival']['of_rival']:.2f} of cuBLAS's speed with {best['rival']['error']['max']:.1e}"
        parts.append(part)
    return "; ".join(parts)


def figure_of_sweep(report):
    small = sum(o["of_time"] for o in report["breakdown"] if not o["operation"].startswith(("gemm", "head_delta")))
    figure = f"{1e3 * report['seconds']:.1f} ms for {report['heads']} heads of {report['layers']} layers and "
    figure += f"{report['pairs']} pairs, products at {100 * report['share']:.0f} % of the ceiling over all of it, "
    figure += f"{100 * small:.0f} % of the time in no product"
    if report["host_seconds"] is not None:
        figure += f", host {1e3 * report['host_seconds']:.1f} ms"
    return figure + (", bound by launches" if report["launch_bound"] else "")


def bench(context):
    """`patchwave bench`: throughput of the kernels and of whole sweeps. (docs/performance.md has the goals.)"""
    report, args = context.report, context.args
    folder = report.folder / "bench"
    folder.mkdir(exist_ok=True)

    def measure(name, what, options, figure):
        at = folder / name
        command = [context.patchwave, "bench", what, *options, "--device", args.device, "--json", f"{at}.json"]
        command += ["--output", f"{at}.svg"] if what == "kernels" else []
        done = context.command(f"bench-{name}", command, BENCH)
        if done.ok:
            report.row(f"bench {what} {' '.join(options[:2])}", PASS, figure(json.loads(Path(f"{at}.json").read_text())))
        else:
            # A model that is too large for the card is no fault of either.
            result = NOT_RUN if done.code == 2 and "memory" in done.why() else FAIL
            report.row(f"bench {what} {' '.join(options[:2])}", result, done.why())

    if args.emulated:
        # An emulator's throughput is no figure; that the commands work is what a rehearsal can show.
        options, figure = ["--shape", "16,64,64", "--time", "0.01"], "ran; an emulator's speed says nothing"
        measure("kernels", "kernels", options, lambda _: figure)
        return
    # At 4,096 rows and more; and the goal's sweep is 32 pairs of 15 tokens, the default.
    measure("product", "kernels", ["--shape", "8192,4096,4096"], figure_of_kernels)
    for like in MODELS[:1] if args.quick else MODELS:
        measure(f"kernels-{like}", "kernels", ["--like", like], figure_of_kernels)
        measure(f"sweep-{like}", "sweep", ["--like", like], figure_of_sweep)


def peers(context):
    """The same sweep by TransformerLens and by PyTorch on the same card, where they are installed."""
    check, args = "against PyTorch and TransformerLens", context.args
    there = context.command("peers-import", [args.python, "-c", "import torch, safetensors.torch, numpy"], TEST)
    if not there.ok:
        context.report.row(check, NOT_RUN, f"PyTorch is not installed for {args.python}")
        return
    command = [args.python, context.bundle / "peers.py", "--patchwave", context.patchwave, "--device", args.device]
    command += ["--work", context.report.folder / "peers"] + (["--small"] if args.emulated else [])
    done = context.command("peers", command, PEERS)
    rows = [line.split("\t") for line in done.said.splitlines() if line.startswith("row\t")]
    for _, name, result, figure in rows:
        context.report.row(name, result, figure)
    if not done.ok or not rows:
        context.report.row(check, FAIL, done.why())


STEPS = [
    ("machine", machine),
    ("device", device),
    ("conformance", conformance),
    ("tests", kernel_tests),
    ("sweeps", sweeps),
    ("bench", bench),
    ("peers", peers),
    ("sanitizer", sanitizer),
]
