"""clihelp.py - `stasis` as its users call it, and its control socket as hostile clients do.

run() and the checks around it hold what every subcommand promises: exit status, which stream says
what, the shape of a failure. Control is a raw HTTP client: it sends the bytes it is told to send.
"""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import time

import tap
from vm import guestvm

HANG_SECONDS = 60  # nothing here takes that long; a limit against hangs, not a measure
FAILURE_KEYS = ["ok", "format", "error", "message"]
COMMANDS = ("run", "save", "restore", "pause", "resume", "info", "verify", "compare",
            "flatten", "rebase")
FAULT_KEYS = {"fault_message"}


class Ended:
    """How one command ended."""

    def __init__(self, status, out, err):
        self.status = status
        self.out = out.decode(errors="replace")
        self.err = err.decode(errors="replace")

    def __str__(self):
        return "exit %d\nstdout: %sstderr: %s" % (self.status, self.out, self.err)


def command(*arguments):
    """The words of `stasis ARGUMENTS`; bytes stay as they are."""
    return [os.environ["STASIS"], *(word if isinstance(word, bytes) else str(word)
                                    for word in arguments)]


def run(*arguments, **options):
    """Run `stasis ARGUMENTS` to its end."""
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    ended = subprocess.run(command(*arguments), stderr=subprocess.PIPE, timeout=HANG_SECONDS,
                           check=False, **options)
    return Ended(ended.returncode, ended.stdout or b"", ended.stderr)


def done(*arguments, **options):
    """Run a command that has to succeed, and to say nothing on stderr."""
    ended = run(*arguments, **options)
    tap.true(ended.status == 0, "%s: %s" % (arguments, ended))
    tap.equal(ended.err, "", "stderr of %s" % (arguments,))
    return ended


def answer(*arguments):
    """The answer to `... --json` of a command that has to succeed: one object on one line."""
    ended = done(*arguments, "--json")
    tap.equal(ended.out.count("\n"), 1, "lines of the answer to %s" % (arguments,))
    return json.loads(ended.out)


def misused(*arguments):
    """A misuse: exit 2, what was wrong and one usage line on stderr, nothing on stdout."""
    ended = run(*arguments)
    tap.true(ended.status == 2, "%s: should be a misuse: %s" % (arguments, ended))
    tap.equal(ended.out, "", "stdout of %s" % (arguments,))
    lines = ended.err.splitlines()
    tap.equal(len(lines), 2, "lines on stderr of %s: %r" % (arguments, ended.err))
    tap.true(re.match(r"stasis( [a-z]+)?: .", lines[0]), "first line is %r" % lines[0])
    tap.true(lines[1].startswith("usage: stasis "), "second line is %r" % lines[1])
    return lines[0]


def failed(code, *arguments, fmt=None, **options):
    """A failure: exit 1; one JSON object of fixed keys with --json, one sentence on stderr without.
    Returns the message."""
    ended = run(*arguments, "--json", **options)
    tap.true(ended.status == 1, "%s: should fail: %s" % (arguments, ended))
    tap.equal(ended.err, "", "stderr of %s --json" % (arguments,))
    tap.equal(ended.out.count("\n"), 1, "lines of %r" % ended.out)
    told = json.loads(ended.out)
    tap.equal(list(told), FAILURE_KEYS, "keys of the failure")
    tap.equal((told["ok"], told["error"]), (False, code), "verdict and error, %r" % told["message"])
    tap.equal(told["format"], fmt, "format")
    tap.true(told["message"], "the message is empty")

    ended = run(*arguments, **options)
    tap.true(ended.status == 1, "%s: should fail: %s" % (arguments, ended))
    lines = ended.err.splitlines()
    tap.equal(len(lines), 1, "lines on stderr: %r" % ended.err)
    tap.true(lines[0].startswith("stasis %s: " % arguments[0]), "stderr is %r" % lines[0])
    return told["message"]


@contextlib.contextmanager
def left_clean(folder):
    """What is in the folder afterwards is what was there before, sockets too."""
    def entries():
        return sorted((path, os.lstat(path).st_size) for path in
                      (os.path.join(at, name) for at, folders, files in os.walk(folder)
                       for name in folders + files) if not os.path.isdir(path))

    before = entries()
    yield
    tap.equal(entries(), before, "what is in the folder afterwards")


def write(path, content=b""):
    with open(path, "wb") as file:
        file.write(content)
    return path


def golden(name):
    path = tap.source("tests", "golden", "native", name)
    tap.need(os.path.exists(path), "no golden file " + name)
    return path


class Answer:
    """One answer of the control socket."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    def fault(self):
        """The sentence of a failure, whose body has exactly one key."""
        told = self.json()
        tap.equal(set(told), FAULT_KEYS, "keys of the fault")
        tap.true(isinstance(told["fault_message"], str) and told["fault_message"], "fault is empty")
        return told["fault_message"]

    def __str__(self):
        return "status %d, %r" % (self.status, self.body)


class Control:
    """A connection to a control socket."""

    def __init__(self, path, timeout=HANG_SECONDS):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Wait for a place in the queue, which a socket with Python's own time limit does not.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", timeout, 0))
        self.socket.connect(path)
        self.socket.settimeout(timeout)
        self.pending = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def _more(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.pending += data
        return bool(data)

    def receive(self):
        """The next answer, or None at the end of the connection."""
        while b"\r\n\r\n" not in self.pending:
            if not self._more():
                tap.equal(self.pending, b"", "an answer cut short")
                return None
        head, _, self.pending = self.pending.partition(b"\r\n\r\n")
        lines = head.decode("ascii").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in
                   (line.partition(":") for line in lines[1:])}
        size = int(headers.get("content-length", "0"))
        while len(self.pending) < size:
            tap.true(self._more(), "the body of an answer was cut short")
        body, self.pending = self.pending[:size], self.pending[size:]
        return Answer(int(lines[0].split(" ")[1]), headers, body)

    def closed(self):
        """The server has ended the connection and sent nothing more."""
        return not self.pending and not self._more()

    def request(self, method, path, body=None):
        self.send(request_bytes(method, path, body))
        return self.receive()


def request_bytes(method, path, body=None, headers=""):
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    length = "" if body is None else "Content-Length: %d\r\n" % len(body)
    return ("%s %s HTTP/1.1\r\nHost: localhost\r\n%s%s\r\n" % (method, path, length, headers)
            ).encode() + (body or b"")


def ask(path, method, target, body=None):
    """One request on a connection of its own."""
    with Control(path) as control:
        return control.request(method, target, body)


def accepted(path, method, target, body=None, status=204):
    told = ask(path, method, target, body)
    tap.true(told.status == status, "%s %s %s: %s" % (method, target, body, told))
    return told.json() if told.body else None


def refused(path, method, target, body=None, code="InvalidArgument", status=400):
    """The sentence of a refusal of this status, whose stable code is in a header."""
    told = ask(path, method, target, body)
    tap.true(told.status == status, "%s %s %s: %s" % (method, target, body, told))
    tap.equal(told.headers.get("stasis-error"), code, "code of %s" % told)
    tap.equal(told.headers.get("content-type"), "application/json", "content type")
    return told.fault()


def still_serves(path):
    """A well-behaved client is answered, and at once."""
    begun = time.monotonic()
    told = accepted(path, "GET", "/", status=200)
    tap.true(time.monotonic() - begun < 4, "another client had to wait")
    return told


def serving(case):
    """A case with a microVM that is not started: case(path of its control socket). It must be well
    afterwards, and end in order."""
    def checked():
        with tap.temp_dir() as folder, guestvm.Vm(folder, "run", "--id", "api-test") as vm:
            vm.wait_socket()
            case(vm.socket)
            tap.equal(still_serves(vm.socket)["state"], "Not started", "state")
            vm.process.terminate()
            tap.equal(vm.wait_end(), 0, "exit status")
            tap.true(not os.path.exists(vm.socket), "the socket is left behind")
            tap.equal(vm.said(), "", "what the process said")
    checked.__name__ = case.__name__
    return tap.case(checked)
