"""The report of tools/gpu-check/run: a folder with report.md, every command's log, and what the commands wrote."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

PASS, FAIL, NOT_RUN = "pass", "fail", "not run"


class Done:
    """A command that has ended or was ended."""

    def __init__(self, code, seconds, said, log, limit):
        self.code, self.seconds, self.said, self.log, self.limit = code, seconds, said, log, limit

    @property
    def ok(self):
        return self.code == 0

    def why(self):
        """Why it failed, in a few words."""
        if self.code is None:
            return f"ended after {self.limit:.0f} s"
        if self.code < 0:
            return f"ended by signal {-self.code}"
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        # What a Rust test panics with is in the line behind the place.
        telling = [after for line, after in zip(lines, lines[1:]) if "panicked at" in line][:1]
        telling = telling or [line for line in lines if "error" in line.lower()][-1:] or lines[-1:]
        return (telling or [f"exit code {self.code}"])[0][:160]


class Report:
    def __init__(self, folder, title, minutes):
        self.folder, self.title = Path(folder), title
        self.rows, self.facts, self.started = [], [], time.monotonic()
        self.deadline = self.started + 60 * minutes
        (self.folder / "logs").mkdir(parents=True)

    def left(self):
        """Seconds until the whole must end."""
        return self.deadline - time.monotonic()

    def row(self, check, result, figure=""):
        self.rows.append((check, result, " ".join(str(figure).split())))
        print(f"{result:8} {check}: {self.rows[-1][2]}", flush=True)

    def failed(self):
        return [row for row in self.rows if row[1] == FAIL]

    def command(self, name, command, limit, environment=None):
        """Runs a command for at most `limit` seconds, with all that it starts. Its output is in logs/NAME.log."""
        log = self.folder / "logs" / f"{name}.log"
        limit = max(1.0, min(limit, self.left()))
        started = time.monotonic()
        with open(log, "wb") as out:
            out.write(f"$ {' '.join(str(part) for part in command)}\n".encode())
            out.flush()
            try:
                process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                )
            except OSError as error:
                out.write(f"error: {error}\n".encode())
                return Done(127, 0.0, f"error: {error}", log, limit)
            try:
                code = process.wait(limit)
            except (subprocess.TimeoutExpired, KeyboardInterrupt) as ended:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if isinstance(ended, KeyboardInterrupt):
                    raise
                code = None
        said = log.read_text(errors="replace").split("\n", 1)[1]
        return Done(code, time.monotonic() - started, said, log, limit)

    def write(self):
        """report.md, its table first, and results.json. Both may be written again and again."""
        rows = ["| check | result | figure |", "|---|---|---|"]
        clean = lambda text: text.replace("|", "\\|")
        rows += [f"| {clean(check)} | {result} | {clean(figure)} |" for check, result, figure in self.rows]
        seconds = time.monotonic() - self.started
        facts = [f"- {name}: {value}" for name, value in self.facts]
        text = "\n".join([f"# {self.title}", "", *rows, "", f"{seconds:.0f} s in all.", "", "## The machine", "", *facts])
        (self.folder / "report.md").write_text(text + "\n")
        results = {
            "title": self.title,
            "seconds": seconds,
            "checks": [{"check": c, "result": r, "figure": f} for c, r, f in self.rows],
            "facts": dict(self.facts),
        }
        (self.folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        return "\n".join(rows)
