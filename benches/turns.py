"""Shared by the scripts that compare Kiln with others: building its benches, and timing programs in turns."""

import json
import os
import pathlib
import selectors
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Slow(Exception):
    """A program gave no answer in time."""


class Failed(Exception):
    """A program ended instead of giving an answer."""


def build(*command, cwd=ROOT):
    """Runs a command of cargo that builds one program, and returns its path."""
    command = ["cargo", *command, "--quiet", "--message-format", "json"]
    out = subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout
    programs = [json.loads(line).get("executable") for line in out.splitlines()]
    return [p for p in programs if p][-1]


class Program:
    """A process that answers each line on its standard input by one on its standard output."""

    def __init__(self, command, **environment):
        env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, bufsize=0)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def ask(self, line="", limit=None):
        """The answer to a line; `Slow` after `limit` seconds, when the process has been ended."""
        try:
            self.process.stdin.write(f"{line}\n".encode())
            answer = b""
            while not answer.endswith(b"\n"):
                if not self.selector.select(limit):
                    self.process.kill()
                    raise Slow
                part = os.read(self.process.stdout.fileno(), 4096)
                if not part:
                    raise Failed
                answer += part
        except BrokenPipeError:
            raise Failed from None
        return answer.decode()

    def peak_memory(self):
        """The most memory that the process has occupied, in MiB; None where the system does not say."""
        try:
            lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return None
        peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
        return peaks[0] if peaks else None

    def close(self):
        self.selector.close()
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
