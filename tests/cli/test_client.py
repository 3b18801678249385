#!/usr/bin/python3
"""The commands that ask a control socket (save, pause, resume), against servers that are not ours.

Each server is a few lines here: it takes a request and answers with bytes of the test's choice.
What is no answer is ProtocolError, what is a refusal keeps the server's code and words, and nothing
that a server sends makes the command hang, crash, or write to the terminal as it likes.
"""

import json
import os
import pty
import socket
import subprocess
import threading
import time

import clihelp
import tap

REPORT = {"id": "5" * 64, "type": "Full", "parent": None,
          "memory_bytes": 4096, "data_bytes": 1024, "zero_bytes": 3072, "file_bytes": 8192, "file_allocated_bytes": 6144, "memory_us": 1, "sync_us": 2,
          "total_us": 3, "pause_us": 1500}
SAVE_KEYS = ["ok", "path"] + ["kind" if key == "type" else key for key in REPORT]


def http(status, body=b"", headers="", length=None):
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    return ("HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n"
            % (status, headers, len(body) if length is None else length)).encode() + body


class Server:
    """A control socket whose answers are bytes, or a function from the request to them."""

    def __init__(self, folder, answer):
        self.path = os.path.join(folder, "server.sock")
        self.answer = answer if callable(answer) else lambda _request: answer
        self.requests = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(self.path)
        self.socket.listen(8)

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.socket.close()
        os.unlink(self.path)

    def _serve(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client):
        with client:
            request = b""
            while not request.endswith(b"}") and b"\r\nContent-Length: 0\r\n\r\n" not in request:
                data = client.recv(65536)
                if not data:
                    return
                request += data
            self.requests.append(request)
            try:
                client.sendall(self.answer(request))
            except OSError:
                pass  # the command has heard enough


def asked(answer, check, *arguments):
    """check(arguments with the socket) against a server with this answer; its requests."""
    with tap.temp_dir() as folder:
        with Server(folder, answer) as server:
            check(arguments[0], "--socket", server.path, *arguments[1:])
            return server.requests


def refuses(code, answer, *arguments):
    """The message of the failure of this code."""
    told = []
    asked(answer, lambda *words: told.append(clihelp.failed(code, *words)), *arguments)
    return told[0]


# --- requests -------------------------------------------------------------------------------------


@tap.case
def pause_and_resume_send_one_patch_each():
    for command, state in (("pause", "Paused"), ("resume", "Resumed")):
        requests = asked(http(204),
                         lambda *words: tap.equal(clihelp.done(*words).out, "", "stdout"),
                         command)
        tap.equal(len(requests), 1, "requests")
        head, _, body = requests[0].partition(b"\r\n\r\n")
        tap.true(head.startswith(b"PATCH /vm HTTP/1.1\r\n"), head)
        tap.true(b"\r\nHost: " in head and b"\r\nConnection: close" in head, head)
        tap.true(b"\r\nContent-Length: %d" % len(body) in head, head)
        tap.equal(json.loads(body), {"state": state}, "body")


@tap.case
def pause_and_resume_answer_with_the_state():
    for command, state in (("pause", "Paused"), ("resume", "Running")):
        asked(http(204), lambda *words, want=state: tap.equal(
            clihelp.answer(*words), {"ok": True, "state": want}, "answer"), command)


@tap.case
def save_sends_one_request_with_an_absolute_path():
    with tap.temp_dir() as folder:
        for output, want in (("a.stasis", os.path.join(os.path.realpath(folder), "a.stasis")),
                             ("/x/y.stasis", "/x/y.stasis")):
            requests = asked(http(200, REPORT), lambda *words: clihelp.done(*words, cwd=folder),
                             "save", "--output", output)
            tap.equal(len(requests), 1, "requests")
            head, _, body = requests[0].partition(b"\r\n\r\n")
            tap.true(head.startswith(b"PUT /snapshot/create HTTP/1.1\r\n"), head)
            tap.equal(json.loads(body), {"snapshot_path": want, "pause_vm": True}, "body")


@tap.case
def save_of_a_diff_asks_for_one_and_tells_its_parent():
    def check(*words):
        told = clihelp.answer(*words)
        tap.equal((told["kind"], told["parent"]), ("diff", "6" * 64), "answer")
        tap.true(", diff of %s, " % ("6" * 64) in clihelp.done(*words).out, "answer as text")

    diff = http(200, dict(REPORT, type="Diff", parent="6" * 64))
    for words, parent in (([], {}), (["--parent", "/x/p"], {"parent_path": "/x/p"})):
        requests = asked(diff, check, "save", "--output", "/x/a.stasis", "--diff", *words)
        for request in requests:
            tap.equal(json.loads(request.partition(b"\r\n\r\n")[2]),
                      dict(parent, snapshot_path="/x/a.stasis", pause_vm=True, snapshot_type="Diff"),
                      "body")


@tap.case
def a_report_whose_type_and_parent_do_not_fit_is_a_protocol_error():
    for told in ({"type": "Diff"}, {"parent": "6" * 64}):
        message = refuses("ProtocolError", http(200, dict(REPORT, **told)), "save", "-o", "/x")
        tap.true("'parent'" in message, message)


@tap.case
def save_answers_with_the_report_and_nothing_else():
    def check(*words):
        told = clihelp.answer(*words)
        tap.equal(list(told), SAVE_KEYS, "keys")
        want = dict(REPORT, ok=True, path="/x/a.stasis", kind="full")
        del want["type"]
        tap.equal(told, want, "answer")
        tap.equal(clihelp.done(*words).out,
                  "/x/a.stasis: id %s, 1.0 KiB of data, 6.0 KiB on disk, paused 1.5 ms\n"
                  % REPORT["id"], "answer as text")
    asked(http(200, dict(REPORT, evil="more")), check, "save", "--output", "/x/a.stasis")


# --- refusals -------------------------------------------------------------------------------------


@tap.case
def a_refusal_keeps_the_servers_code_and_words():
    for code in ("QuiesceTimeout", "WrongState", "Busy", "NoSpace"):
        answer = http(400, {"fault_message": "not now, %s" % code}, "Stasis-Error: %s\r\n" % code)
        for words in (["pause"], ["resume"], ["save", "-o", "/x"]):
            tap.equal(refuses(code, answer, *words), "not now, " + code, "message")


@tap.case
def a_refusal_of_no_known_code_is_refused():
    for headers in ("", "Stasis-Error: Nonsense\r\n", "Stasis-Error: \r\n",
                    "Stasis-Error: %s\r\n" % ("x" * 5000)):
        tap.equal(refuses("Refused", http(400, {"fault_message": "no"}, headers), "pause"), "no",
                  "message")


@tap.case
def a_refusal_without_words_tells_the_status():
    for body in (b"", b"<html>", b"[]", b'{"fault_message": 3}'):
        tap.equal(refuses("Refused", http(503, body), "pause"),
                  "the server answered with status 503", "message")


@tap.case
def the_servers_words_move_no_cursor():
    def check(*words):
        ended = clihelp.run(*words)
        tap.equal((ended.status, ended.err), (1, "stasis pause: no?[2J?way\n"), "stderr")
    asked(http(400, {"fault_message": "no\x1b[2J\nway"}), check, "pause")


# --- what is no answer ----------------------------------------------------------------------------

NO_ANSWERS = {
    "silence": b"",
    "a_greeting_of_another_protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a_status_line_alone": b"HTTP/1.1 204 No Content\r\n",
    "headers_without_an_end": b"HTTP/1.1 204 No Content\r\nA: b\r\n",
    "http_2": b"HTTP/2 204 No Content\r\n\r\n",
    "a_body_shorter_than_announced": http(200, b"{}", length=3),
    "a_body_longer_than_announced": http(200, b"{}  ", length=2),
    "a_body_in_chunks":
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a_body_that_is_no_json": http(200, b"<html>"),
    "a_body_with_something_behind_it": http(200, b"{} {}"),
    "a_body_that_is_a_list": http(200, b"[1]"),
    "a_body_that_is_null": http(200, b"null"),
    "a_body_with_a_zero_byte": http(200, b'{"a":"\x00"}'),
    "a_body_that_is_not_utf8": http(200, b'{"a":"\xff"}'),
    "an_endless_answer": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200000,
}

for name, content in NO_ANSWERS.items():
    tap.case_for(name + "_is_a_protocol_error", refuses, "ProtocolError", content, "pause")


@tap.case
def a_report_that_lacks_something_is_a_protocol_error():
    for key in REPORT:
        for value in (None, "text", []):
            if key == "id" and value == "text":
                continue
            body = {k: v for k, v in REPORT.items() if k != key}
            if value is not None:
                body[key] = value
            message = refuses("ProtocolError", http(200, body), "save", "-o", "/x")
            tap.true(key in message, message)
    tap.true("id" in refuses("ProtocolError", http(204), "save", "-o", "/x"), "no body at all")


# --- no server ------------------------------------------------------------------------------------


def commands_at(path):
    return [["pause", "-s", path], ["resume", "-s", path], ["save", "-s", path, "-o", "/x"]]


@tap.case
def no_socket_is_not_found():
    with tap.temp_dir() as folder:
        for words in commands_at(os.path.join(folder, "none")):
            clihelp.failed("NotFound", *words)


@tap.case
def a_dead_socket_and_a_plain_file_are_io_errors():
    with tap.temp_dir() as folder:
        dead = os.path.join(folder, "dead")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(dead)
        for path in (dead, clihelp.write(os.path.join(folder, "file"))):
            for words in commands_at(path):
                tap.true("Connection refused" in clihelp.failed("Io", *words), words)


@tap.case
def a_socket_path_that_is_too_long_or_empty_is_an_invalid_argument():
    for path, length in (("/tmp/" + "x" * 103, "108 bytes"), ("", "0 bytes")):
        for words in commands_at(path):
            tap.true(length in clihelp.failed("InvalidArgument", *words), words)


@tap.case
def an_empty_output_is_an_invalid_argument():
    clihelp.failed("InvalidArgument", "save", "-s", "/nowhere/sock", "-o", "")


# --- the progress line ----------------------------------------------------------------------------


def save_on_terminal(seconds):
    """What `stasis save` writes to a terminal while its server takes so long."""
    def answer(request):
        if b"GET /snapshot/progress " in request:
            return http(200, {"done_bytes": 3 << 20, "total_bytes": 12 << 20})
        time.sleep(seconds)
        return http(200, REPORT)

    master, slave = pty.openpty()
    with tap.temp_dir() as folder, Server(folder, answer) as server:
        with subprocess.Popen(clihelp.command("save", "-s", server.path, "-o", "/x"),
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=slave) as process:
            os.close(slave)
            shown = b""
            while True:
                try:
                    data = os.read(master, 4096)
                except OSError:  # the other end has gone
                    break
                shown += data
            os.close(master)
            tap.equal(process.wait(clihelp.HANG_SECONDS), 0, "exit status")
        return shown


@tap.case
def a_long_save_shows_its_progress_on_a_terminal_and_wipes_it():
    shown = save_on_terminal(1.5)
    tap.true(b"\rsaving:  25% of 12 MiB, " in shown, "terminal: %r" % shown)
    tap.true(shown.endswith(b"\r\x1b[K"), "terminal: %r" % shown)


@tap.case
def a_short_save_shows_no_progress():
    tap.equal(save_on_terminal(0), b"", "terminal")


@tap.case
def no_progress_is_asked_for_without_a_terminal():
    def answer(_request):
        time.sleep(1)
        return http(200, REPORT)
    requests = asked(answer, clihelp.done, "save", "-o", "/x")
    tap.equal(len(requests), 1, "requests")


tap.main()
