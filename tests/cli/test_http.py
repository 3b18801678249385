#!/usr/bin/python3
"""The control socket against clients that are broken, hostile, slow, or many.

The microVM behind it is not started, so no KVM is needed: what is proven is how requests arrive,
are bounded, and are refused. Whatever one client does, another is served, and the server goes on.
"""

import contextlib
import ctypes
import os
import socket
import stat
import struct
import subprocess
import threading
import time

import clihelp
import tap
from clihelp import Control, accepted, ask, refused, request_bytes, serving
from vm import guestvm

PATIENCE = 5       # seconds that a client may keep the server waiting
CUT_WITHIN = 12    # and by then it is cut off, also on a busy machine
BODY_MAX = 65536
IN_MOVED_TO, IN_CREATE = 0x80, 0x100  # of inotify


# --- the socket -----------------------------------------------------------------------------------


@serving
def the_socket_is_its_owners_alone(path):
    tap.equal(stat.S_IMODE(os.lstat(path).st_mode), 0o600, "mode")


def socket_fails(code, path):
    return clihelp.failed(code, "run", "--serial", "none", "--api-socket", path)


@tap.case
def a_socket_path_that_is_too_long_or_empty_is_an_invalid_argument():
    with tap.temp_dir() as folder, clihelp.left_clean(folder):
        path = os.path.join(folder, "x" * (108 - len(folder) - 1))
        tap.equal(len(path), 108, "length")
        tap.true("108 bytes" in socket_fails("InvalidArgument", path), "the length is not told")
        socket_fails("InvalidArgument", "")


@contextlib.contextmanager
def server_at(path):
    """`stasis run` at a path of the test's choice; it must end in order and leave nothing there."""
    with subprocess.Popen(clihelp.command("run", "--serial", "none", "--api-socket", path)) as run:
        try:
            yield
            run.terminate()
            tap.equal(run.wait(clihelp.HANG_SECONDS), 0, "exit status")
        finally:
            run.kill()
    tap.true(not os.path.exists(path), "the socket is left behind")


@tap.case
def the_longest_socket_path_works():
    with tap.temp_dir() as folder:
        deep = os.path.join(folder, "x" * (105 - len(folder) - 1))
        os.mkdir(deep)
        for path in (os.path.join(folder, "y" * (107 - len(folder) - 1)), os.path.join(deep, "z")):
            tap.equal(len(path), 107, "length")
            with server_at(path):
                # The second has no room for the other name that it would be made under.
                tap.wait_until(lambda at=path: answers(at), clihelp.HANG_SECONDS, "server")


def events(watch):
    """{name: mask} of what inotify has seen since."""
    found, data = {}, os.read(watch, 65536)
    while data:
        _, mask, _, size = struct.unpack_from("iIII", data)
        found[data[16:16 + size].rstrip(b"\0")] = mask
        data = data[16 + size:]
    return found


@tap.case
def a_socket_that_is_there_is_listened_on():
    # Made under its own name it would be there for a moment before it is listened on. That moment
    # is short, so the kernel is asked how the name came to be, too.
    libc = ctypes.CDLL(None, use_errno=True)
    with tap.temp_dir() as folder:
        path = os.path.join(folder, "sock")
        watch = libc.inotify_init()
        added = libc.inotify_add_watch(watch, folder.encode(), IN_CREATE | IN_MOVED_TO)
        tap.true(added >= 0, "cannot watch the folder")
        for _ in range(10):
            with server_at(path):
                deadline = time.monotonic() + clihelp.HANG_SECONDS
                while not os.path.exists(path):
                    tap.true(time.monotonic() < deadline, "no socket")
                accepted(path, "GET", "/version", status=200)
                tap.equal(events(watch)[b"sock"], IN_MOVED_TO, "how the socket got its name")
            tap.equal(os.listdir(folder), [], "what is left")
        os.close(watch)


@tap.case
def a_socket_path_taken_by_something_else_exists():
    with tap.temp_dir() as folder:
        file = clihelp.write(os.path.join(folder, "file"), b"mine")
        os.mkfifo(os.path.join(folder, "fifo"))
        os.symlink("nowhere", os.path.join(folder, "link"))
        with clihelp.left_clean(folder):
            for path in (file, folder, os.path.join(folder, "fifo"), os.path.join(folder, "link")):
                socket_fails("Exists", path)


@tap.case
def a_socket_of_a_live_server_exists_and_goes_on():
    with tap.temp_dir() as folder, guestvm.Vm(folder, "run") as vm:
        vm.wait_socket()
        socket_fails("Exists", vm.socket)
        clihelp.still_serves(vm.socket)


@tap.case
def a_datagram_socket_exists():
    with tap.temp_dir() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        path = os.path.join(folder, "datagrams")
        other.bind(path)
        socket_fails("Exists", path)
        tap.true(os.path.exists(path), "the other's socket is gone")


@tap.case
def a_socket_that_a_killed_process_left_is_replaced():
    with tap.temp_dir() as folder:
        with guestvm.Vm(folder, "run") as vm:
            vm.wait_socket()
            vm.kill()
        tap.true(os.path.exists(vm.socket), "SIGKILL should leave the socket")
        with server_at(vm.socket):
            tap.wait_until(lambda: answers(vm.socket), clihelp.HANG_SECONDS, "the new server")


def answers(path):
    try:
        return ask(path, "GET", "/").status == 200
    except OSError:
        return False


@tap.case
def a_server_does_not_remove_the_socket_of_its_successor():
    with tap.temp_dir() as folder, guestvm.Vm(folder, "run") as vm:
        vm.wait_socket()
        os.unlink(vm.socket)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as successor:
            successor.bind(vm.socket)
            vm.process.terminate()
            tap.equal(vm.wait_end(), 0, "exit status")
            tap.true(os.path.exists(vm.socket), "the successor's socket is gone")


@tap.case
def a_socket_in_no_folder_or_a_read_only_one_is_refused():
    with tap.temp_dir() as folder:
        socket_fails("NotFound", os.path.join(folder, "none", "sock"))
    tap.need(os.path.isdir("/proc/self"), "there is no /proc")
    ended = clihelp.run("run", "--serial", "none", "--api-socket", "/proc/sock", "--json")
    tap.equal(ended.status, 1, "exit status")


# --- paths and methods ----------------------------------------------------------------------------

METHODS = {"/": "GET", "/version": "GET", "/machine-config": "GET, PUT", "/boot-source": "PUT",
           "/drives/a": "PUT", "/entropy": "PUT", "/actions": "PUT", "/vm": "PATCH",
           "/snapshot": "GET", "/snapshot/progress": "GET", "/snapshot/create": "PUT",
           "/snapshot/load": "PUT"}


@serving
def a_method_that_a_path_does_not_have_is_refused_and_those_it_has_are_named(path):
    for target, methods in METHODS.items():
        for method in ("GET", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "FROBNICATE"):
            if method in methods:
                continue
            told = ask(path, method, target, "" if method == "GET" else "{}")
            tap.true(told.status == 400, "%s %s: %s" % (method, target, told))
            tap.equal(told.headers.get("allow"), methods, "Allow of " + target)
            tap.true(target in told.fault(), told)


@serving
def an_unknown_path_is_refused(path):
    for target in ("/none", "//", "/version/", "/vm/", "/drives", "/drives/", "/Version",
                   "/./version",
                   "/%76ersion", "/version%00", "/snapshot/", "/x" * 3000, "/\xff", "*"):
        refused(path, "GET", target, status=400)
        refused(path, "PUT", target, {}, status=400)


@serving
def a_query_is_refused(path):
    for target in ("/?a=b", "/version?x", "/version?%00"):
        refused(path, "GET", target)


@serving
def a_get_with_a_body_is_refused(path):
    refused(path, "GET", "/version", "{}")


@serving
def head_is_answered_without_a_body(path):
    with Control(path) as control:
        control.send(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = b""
        while True:
            data = control.socket.recv(4096)
            if not data:
                break
            head += data
    tap.true(head.startswith(b"HTTP/1.1 400 ") and head.endswith(b"\r\n\r\n"), head)


# --- malformed requests ---------------------------------------------------------------------------

MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n",
    "a_request_line_of_one_word": b"GET\r\n\r\n",
    "a_version_that_is_none": b"GET / HTTQ/9.9\r\nHost: x\r\n\r\n",
    "zero_bytes": b"\0" * 100 + b"\r\n\r\n",
    "a_header_without_a_colon": b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
    "a_negative_content_length": b"PUT /vm HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a_content_length_that_is_no_number":
        b"PUT /vm HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    "a_content_length_beyond_64_bits":
        b"PUT /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    "a_chunk_size_that_is_no_number":
        b"PATCH /vm HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a_chunk_size_beyond_64_bits":
        b"PATCH /vm HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
}


def check_malformed(content):
    """Refused or dropped, in bounded time; never taken for a request that succeeds."""
    def case(path):
        with Control(path) as control:
            begun = time.monotonic()
            try:
                control.send(content)
                told = control.receive()
            except BrokenPipeError:
                told = None
            tap.true(told is None or 400 <= told.status < 600, "answer: %s" % told)
            tap.true(time.monotonic() - begun < CUT_WITHIN, "took too long")
    return case


for name, content in MALFORMED.items():
    malformed_case = check_malformed(content)
    malformed_case.__name__ = name + "_is_refused_or_dropped"
    serving(malformed_case)


@serving
def headers_beyond_the_limit_are_refused(path):
    for head in (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200000 + b"\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50000 + b"\r\n",
                 b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"):
        with Control(path) as control:
            try:
                control.send(head)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it need not listen to the end
            told = control.receive()
            tap.true(told is None or told.status in (400, 413, 414, 431), "answer: %s" % told)


@serving
def a_body_beyond_the_limit_is_413_and_one_at_the_limit_is_read(path):
    largest = b'{"state":"' + b"x" * (BODY_MAX - 12) + b'"}'
    tap.equal(len(largest), BODY_MAX, "size")
    tap.true("state" in refused(path, "PATCH", "/vm", largest), "the largest body was not read")
    for body in (largest + b" ", largest * 20):
        refused(path, "PATCH", "/vm", body, code="LimitExceeded", status=413)


@serving
def a_body_in_chunks_is_read_and_bounded_like_any_other(path):
    def chunked(body, size):
        pieces = [body[at:at + size] for at in range(0, len(body), size)] + [b""]
        return b"PATCH /vm HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + \
            b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)

    with Control(path) as control:
        control.send(chunked(b'{"state":"Lively"}', 3))
        tap.true("'state' must be" in control.receive().fault(), "the body was not read")
        control.send(chunked(b" " * (BODY_MAX + 1), 5000))
        tap.equal(control.receive().status, 413, "status")


@serving
def the_answer_to_curls_expectation_comes_before_the_body(path):
    with Control(path, timeout=PATIENCE - 1) as control:
        control.send(b"PATCH /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n"
                     b"Expect: 100-continue\r\n\r\n")
        tap.equal(control.receive().status, 100, "interim status")
        control.send(b'{"state":"Lively"}')
        tap.equal(control.receive().status, 400, "status")


# --- many requests --------------------------------------------------------------------------------


@serving
def a_connection_is_kept_for_many_requests(path):
    with Control(path) as control:
        for _ in range(200):
            tap.equal(control.request("GET", "/version").status, 200, "status")
            tap.equal(control.request("PATCH", "/vm", "{").status, 400, "status")


@serving
def pipelined_requests_are_answered_in_order(path):
    with Control(path) as control:
        wanted = []
        for number in range(100):
            target = "/none/%d" % number
            control.send(request_bytes("GET", target) + request_bytes("PUT", "/entropy", {}))
            wanted.append(target)
        for target in wanted:
            tap.true("'%s'" % target in control.receive().fault(), target)
            tap.equal(control.receive().status, 204, "status")


@serving
def forty_connections_at_once_are_all_answered(path):
    controls = [Control(path) for _ in range(40)]
    try:
        for control in controls:
            control.send(request_bytes("GET", "/", headers="Connection: close\r\n"))
        for control in controls:
            tap.equal(control.receive().json()["id"], "api-test", "id")
    finally:
        for control in controls:
            control.socket.close()


@serving
def forty_clients_in_a_row_and_side_by_side_are_all_answered(path):
    troubles = []

    def client():
        try:
            for _ in range(20):
                accepted(path, "GET", "/machine-config", status=200)
                refused(path, "PUT", "/machine-config", {"vcpu_count": 0, "mem_size_mib": 1})
        except Exception as error:  # pylint: disable=broad-except
            troubles.append(error)

    threads = [threading.Thread(target=client) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tap.equal(troubles, [], "troubles")


@serving
def connections_that_end_at_any_point_do_no_harm(path):
    request = request_bytes("PATCH", "/vm", {"state": "Paused"})
    for size in range(len(request) + 1):
        with Control(path) as control:
            control.send(request[:size])


# --- slow clients ---------------------------------------------------------------------------------


def check_cut(path, feed):
    """feed(control) until it is cut off, in bounded time; others are served meanwhile."""
    with Control(path) as control:
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < CUT_WITHIN:
                feed(control)
                clihelp.still_serves(path)
        except (BrokenPipeError, ConnectionResetError):
            pass
        took = time.monotonic() - begun
        tap.true(took < CUT_WITHIN, "was not cut off")
        tap.true(took > PATIENCE - 1, "was cut off after %.1f s already" % took)


@serving
def headers_that_drip_in_are_cut_off_and_others_served(path):
    start = iter([b"GET / HTTP/1.1\r\n"])

    def drip(control):
        control.send(next(start, b"A: b\r\n"))
        time.sleep(0.2)
    check_cut(path, drip)


@serving
def a_body_that_drips_in_is_cut_off_and_others_served(path):
    start = iter([b"PATCH /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"])

    def drip(control):
        control.send(next(start, b" "))
        time.sleep(0.2)
    check_cut(path, drip)


@serving
def a_body_that_floods_in_without_end_is_cut_off_and_others_served(path):
    start = iter([b"PATCH /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"])

    def flood(control):
        control.send(next(start, b" " * 100000))
    check_cut(path, flood)


@serving
def silent_clients_are_cut_off_and_the_next_is_served(path):
    # As many as there may be: the one after them waits until they are gone.
    silent = [Control(path) for _ in range(32)]
    try:
        begun = time.monotonic()
        tap.equal(ask(path, "GET", "/").status, 200, "status")
        tap.true(time.monotonic() - begun < CUT_WITHIN, "the next client waited too long")
        for control in silent:
            tap.true(control.closed(), "a silent client is still connected")
    finally:
        for control in silent:
            control.socket.close()


@serving
def clients_that_do_not_take_their_answers_are_cut_off_and_the_next_is_served(path):
    greedy = [Control(path) for _ in range(32)]
    try:
        for control in greedy:
            control.socket.setblocking(False)
            try:
                for _ in range(20000):
                    control.socket.send(request_bytes("GET", "/none" * 20) * 10)
            except BlockingIOError:
                pass  # neither end takes anything any more
            control.socket.setblocking(True)
        begun = time.monotonic()
        tap.equal(ask(path, "GET", "/").status, 200, "status")
        tap.true(time.monotonic() - begun < CUT_WITHIN, "the next client waited too long")
    finally:
        for control in greedy:
            control.socket.close()


@serving
def the_end_does_not_wait_for_connected_clients(path):
    # serving() sends SIGTERM and waits; these connections are still open then.
    held.append(Control(path))
    held.append(Control(path))
    held[-1].send(b"PUT /entropy HTTP/1.1\r\n")


held = []

tap.main()
