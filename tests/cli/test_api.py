#!/usr/bin/python3
"""What the control socket takes and refuses: paths, bodies, ranges, and actions at the wrong time.

The microVM is never started, so no KVM is needed. test_api_guest.py runs a guest by the same paths.
"""

import json
import os
import re

import clihelp
import tap
from clihelp import accepted, refused, serving

DRIVE = {"drive_id": "a", "path_on_host": "/none", "is_root_device": False}
LOAD = {"snapshot_path": "/none"}

# One valid body for each path that takes one; what each of them may leave out is left out.
BODIES = {
    ("PUT", "/machine-config"): {"vcpu_count": 1, "mem_size_mib": 64},
    ("PUT", "/boot-source"): {"kernel_image_path": "/none"},
    ("PUT", "/drives/a"): DRIVE,
    ("PUT", "/entropy"): {},
    ("PUT", "/actions"): {"action_type": "InstanceStart"},
    ("PATCH", "/vm"): {"state": "Paused"},
    ("PUT", "/snapshot/create"): {"snapshot_path": "/none/a"},
    ("PUT", "/snapshot/load"): LOAD,
}
CONFIGURATION = [target for target in BODIES if target[1] in
                 ("/machine-config", "/boot-source", "/drives/a", "/entropy")]


# --- answers --------------------------------------------------------------------------------------


@serving
def get_answers_have_exactly_these_keys(path):
    told = accepted(path, "GET", "/", status=200)
    tap.equal(list(told), ["id", "state", "vmm_version", "app_name"], "keys of /")
    tap.equal((told["id"], told["state"], told["app_name"]), ("api-test", "Not started", "Stasis"),
              "/")
    version = clihelp.done("--version").out.split()[1]
    tap.equal(told["vmm_version"], version, "version")
    told = accepted(path, "GET", "/version", status=200)
    tap.equal(list(told), ["firecracker_version", "stasis_version"], "keys of /version")
    tap.equal(told["stasis_version"], version, "version")
    tap.true(re.fullmatch(r"\d+\.\d+\.\d+", told["firecracker_version"]), "Firecracker's version")
    tap.equal(accepted(path, "GET", "/machine-config", status=200),
              {"vcpu_count": 1, "mem_size_mib": 128, "smt": False, "track_dirty_pages": False,
               "huge_pages": "None"}, "/machine-config")


@serving
def the_machine_config_is_what_was_put_last(path):
    for vcpus, mib in ((1, 1), (32, 65536), (2, 512)):
        accepted(path, "PUT", "/machine-config", {"vcpu_count": vcpus, "mem_size_mib": mib})
        told = accepted(path, "GET", "/machine-config", status=200)
        tap.equal((told["vcpu_count"], told["mem_size_mib"]), (vcpus, mib), "machine")


@serving
def a_refused_machine_config_changes_nothing(path):
    accepted(path, "PUT", "/machine-config", {"vcpu_count": 3, "mem_size_mib": 48})
    for body in ({"vcpu_count": 4, "mem_size_mib": 0},
                 {"vcpu_count": 4, "mem_size_mib": 48, "x": 1},
                 {"vcpu_count": 4, "mem_size_mib": 48, "smt": True}):
        refused(path, "PUT", "/machine-config", body,
                code="Unsupported" if "smt" in body else "InvalidArgument")
        told = accepted(path, "GET", "/machine-config", status=200)
        tap.equal((told["vcpu_count"], told["mem_size_mib"]), (3, 48), "machine")


@serving
def what_firecrackers_clients_send_by_default_is_taken(path):
    accepted(path, "PUT", "/machine-config",
             {"vcpu_count": 2, "mem_size_mib": 64, "smt": False, "track_dirty_pages": False,
              "huge_pages": "None", "cpu_template": "None"})
    accepted(path, "PUT", "/machine-config",
             {"vcpu_count": 2, "mem_size_mib": 64, "track_dirty_pages": True, "huge_pages": "2M"})
    told = accepted(path, "GET", "/machine-config", status=200)
    tap.equal((told["track_dirty_pages"], told["huge_pages"]), (True, "2M"), "/machine-config")
    accepted(path, "PUT", "/machine-config",
             {"vcpu_count": 2, "mem_size_mib": 64, "smt": None, "cpu_template": None})
    accepted(path, "PUT", "/boot-source",
             {"kernel_image_path": "/none", "initrd_path": None, "boot_args": "quiet"})
    accepted(path, "PUT", "/drives/a",
             dict(DRIVE, is_read_only=True, cache_type="Unsafe", io_engine="Sync", partuuid=None,
                  rate_limiter=None, socket=None))
    accepted(path, "PUT", "/drives/a", dict(DRIVE, cache_type="Writeback"))
    accepted(path, "PUT", "/entropy", {"rate_limiter": None})
    accepted(path, "PUT", "/entropy", {})


@serving
def what_stasis_has_nothing_for_is_unsupported_by_name(path):
    for target, body, key, value in (
            ("/machine-config", BODIES["PUT", "/machine-config"], "smt", True),
            ("/machine-config", BODIES["PUT", "/machine-config"], "cpu_template", "T2"),
            ("/drives/a", DRIVE, "partuuid", "0eaa91a0-01"),
            ("/drives/a", DRIVE, "rate_limiter", {}),
            ("/drives/a", DRIVE, "socket", "/none"),
            ("/drives/a", DRIVE, "io_engine", "Async"),
            ("/entropy", {}, "rate_limiter", {}),
            ("/snapshot/create", LOAD, "mem_file_path", "/none"),
            ("/snapshot/load", LOAD, "mem_file_path", "/none"),
            ("/snapshot/load", LOAD, "mem_backend", {"backend_type": "File"}),
            ("/snapshot/load", LOAD, "network_overrides", [])):
        message = refused(path, "PUT", target, dict(body, **{key: value}), code="Unsupported")
        tap.true("'%s'" % key in message, message)


@serving
def an_unsupported_key_is_not_forgotten_over_a_later_one(path):
    refused(path, "PUT", "/machine-config", dict(BODIES["PUT", "/machine-config"], smt=True,
                                                 cpu_template="None"), code="Unsupported")


@serving
def values_that_are_no_choice_are_refused_by_name(path):
    for target, body in (("/machine-config", dict(BODIES["PUT", "/machine-config"], huge_pages="1G")),
                         ("/snapshot/create", dict(LOAD, snapshot_type="Half")),
                         ("/snapshot/create", dict(LOAD, parent_path="/none")),
                         ("/snapshot/load", dict(LOAD, huge_pages="1G"))):
        message = refused(path, "PUT", target, body, code="InvalidArgument")
        tap.true("'%s'" % list(body)[-1] in message, message)
    message = refused(path, "PUT", "/machine-config",
                      {"vcpu_count": 1, "mem_size_mib": 3, "huge_pages": "2M"}, code="InvalidArgument")
    tap.true("2 MiB" in message, message)


# --- bodies ---------------------------------------------------------------------------------------


def each_body(check):
    """serving() a case that calls check(path, method, target, body) for each path with a body."""
    def case(path):
        for (method, target), body in BODIES.items():
            check(path, method, target, body)
    case.__name__ = check.__name__
    return serving(case)


@each_body
def an_unknown_key_is_refused_by_name(path, method, target, body):
    message = refused(path, method, target, dict(body, frobnicate=1))
    tap.true("'frobnicate'" in message, message)
    tap.true("unknown key" in refused(path, method, target, dict(body, **{"": 1})), target)
    tap.true("unknown key" in refused(path, method, target, dict(body, **{"é" * 400: 1})), target)


@each_body
def a_key_given_twice_is_refused(path, method, target, body):
    for key, value in body.items():
        text = json.dumps(body)[:-1] + ", %s: %s}" % (json.dumps(key), json.dumps(value))
        tap.true("twice" in refused(path, method, target, text), text)
        # The same name in other letters.
        text = json.dumps(body)[:-1] + ', "\\u%04x%s": %s}' % (ord(key[0]), key[1:],
                                                               json.dumps(value))
        tap.true("twice" in refused(path, method, target, text), text)


@each_body
def a_missing_key_is_refused_by_name(path, method, target, body):
    for key in body:
        rest = {other: value for other, value in body.items() if other != key}
        message = refused(path, method, target, rest)
        tap.true("'%s'" % key in message and "missing" in message, message)


@each_body
def a_value_of_another_type_is_refused_by_name(path, method, target, body):
    for key, value in body.items():
        for wrong in (None, True, 1, 1.5, "text", [], {}):
            if type(wrong) is type(value):
                continue
            message = refused(path, method, target, dict(body, **{key: wrong}))
            tap.true("'%s'" % key in message, message)


NO_OBJECTS = [
    "", " ", "null", "1", "true", '"text"', "[]", "[{}]", "{", "}", '{"a"', '{"a":', '{"a":}',
    "{,}", "{}x", "{} {}", "{}\0", "\0{}", "\0", '{"a":1,}', "{a:1}", "{'a':1}",
    "{\"a\":'b'}", "{/**/}",
    '{"a":01}', '{"a":0x1}', '{"a":+1}', '{"a":"\n"}', '{"a":"\\q"}',
    b'{"a":"\xff"}', b'{"\xc0\xaf":1}', b'{"a":"\xed\xa0\x80"}', b"\xef\xbb\xbf{}",
    '{"a":' + "[" * 50 + "]" * 50 + "}", '{"a":' * 50 + "1" + "}" * 50, "[" * 60000,
    '{"a":"' + "x" * 60000,
]


@each_body
def what_is_not_one_json_object_is_refused(path, method, target, _body):
    for text in NO_OBJECTS:
        # Not for its key, which is unknown anyway.
        message = refused(path, method, target, text)
        tap.true(message.startswith("the body "), "%r: %s" % (text, message))


@each_body
def text_after_the_object_is_refused_and_blanks_around_it_are_not(path, method, target, body):
    text = json.dumps(body)
    for tail in ("x", "{}", "\0", ",", "null"):
        tap.true(refused(path, method, target, text + tail).startswith("the body "), tail)
    refused(path, method, target, " \r\n\t" + text.replace("{", "{ ", 1)[:-1] + ',"x":1} \r\n\t')
    if (method, target) in CONFIGURATION:
        accepted(path, method, target, " \r\n\t" + text + " \r\n\t")


@each_body
def an_escaped_zero_byte_is_refused_in_names_and_in_texts(path, method, target, body):
    for key, value in body.items():
        rest = {other: value for other, value in body.items() if other != key}
        text = json.dumps(rest)[:-1] + ("," if rest else "") + '"%s\\u0000x": %s}' % (
            key, json.dumps(value))
        refused(path, method, target, text)
        if isinstance(value, str):
            refused(path, method, target, dict(body, **{key: value + "\0"}))


@serving
def numbers_out_of_range_are_refused_with_the_range(path):
    for key, values in (("vcpu_count",
                         (0, 33, -1, 2**32 + 1, 2**63, 2**64, 2**64 + 1, -2**63, -2**64)),
                        ("mem_size_mib", (0, 65537, -1, 2**44, 2**63, 2**64 + 64, -2**64))):
        for value in values:
            message = refused(path, "PUT", "/machine-config",
                              {"vcpu_count": 1, "mem_size_mib": 64, key: value})
            tap.true("'%s' must be 1 to " % key in message, message)
    for text in ("1e0", "1.0", "NaN", "Infinity", "-0.0"):
        refused(path, "PUT", "/machine-config", '{"vcpu_count": %s, "mem_size_mib": 64}' % text)


@serving
def texts_out_of_range_are_refused(path):
    for drive in ("a b", "a.b", "x" * 64, "é", "a%2Fb"):
        refused(path, "PUT", "/drives/" + drive, dict(DRIVE, drive_id=drive))
    accepted(path, "PUT", "/drives/" + "x" * 63, dict(DRIVE, drive_id="x" * 63))
    refused(path, "PUT", "/drives/a", dict(DRIVE, drive_id="b"))
    refused(path, "PUT", "/drives/a", dict(DRIVE, path_on_host=""))
    refused(path, "PUT", "/drives/a", dict(DRIVE, path_on_host="/" + "x" * 5000))
    refused(path, "PUT", "/drives/a", dict(DRIVE, cache_type="Sometimes"))
    refused(path, "PUT", "/boot-source", {"kernel_image_path": ""})
    refused(path, "PUT", "/boot-source",
            {"kernel_image_path": "/x", "initrd_path": "/" + "x" * 5000})
    refused(path, "PUT", "/boot-source", {"kernel_image_path": "/x", "boot_args": "x" * 2048})
    accepted(path, "PUT", "/boot-source", {"kernel_image_path": "/x", "boot_args": "x" * 2047})
    refused(path, "PUT", "/actions", {"action_type": "FlushMetrics"})
    refused(path, "PATCH", "/vm", {"state": "Running"})


@serving
def no_more_drives_than_there_are_places(path):
    for number in range(7):
        name = "d%d" % number
        accepted(path, "PUT", "/drives/" + name, dict(DRIVE, drive_id=name))
    accepted(path, "PUT", "/drives/d3", dict(DRIVE, drive_id="d3"))  # replaces
    refused(path, "PUT", "/drives/d7", dict(DRIVE, drive_id="d7"))


@serving
def overrides_of_disks_are_checked_one_by_one(path):
    entry = {"drive_id": "a", "path_on_host": "/x"}
    for drives in ({}, "a", 1, [1], [None], [[]], [{}], [{"drive_id": "a"}], [dict(entry, x=1)],
                   [dict(entry, drive_id=1)], [entry, {"path_on_host": "/x"}]):
        refused(path, "PUT", "/snapshot/load", dict(LOAD, drives=drives))
    refused(path, "PUT", "/snapshot/load", dict(LOAD, drives=[entry] * 8), code="LimitExceeded")
    refused(path, "PUT", "/snapshot/load", dict(LOAD, drives=[entry]), code="NotFound")


# --- the wrong time -------------------------------------------------------------------------------


@serving
def what_needs_a_running_microvm_says_so(path):
    for method, target, body in (("PATCH", "/vm", {"state": "Paused"}),
                                 ("PATCH", "/vm", {"state": "Resumed"}),
                                 ("PUT", "/snapshot/create", {"snapshot_path": "/tmp/never"}),
                                 ("PUT", "/snapshot/create", {"snapshot_path": "/tmp/never",
                                                              "pause_vm": True}),
                                 ("PUT", "/actions", {"action_type": "SendCtrlAltDel"})):
        message = refused(path, method, target, body, code="WrongState")
        tap.true("Not started" in message, message)
    tap.true(not os.path.exists("/tmp/never"), "a snapshot of nothing was made")
    refused(path, "GET", "/snapshot", code="WrongState")
    refused(path, "GET", "/snapshot/progress", code="WrongState")


@serving
def the_commands_say_so_too(path):
    with tap.temp_dir() as folder, clihelp.left_clean(folder):
        output = os.path.join(folder, "a.stasis")
        for words in (["pause", "-s", path], ["resume", "-s", path],
                      ["save", "-s", path, "-o", output]):
            tap.true("Not started" in clihelp.failed("WrongState", *words), words)


@serving
def a_load_of_no_snapshot_fails_and_may_be_tried_again(path):
    for _ in range(3):
        refused(path, "PUT", "/snapshot/load", LOAD, code="NotFound")
        with tap.temp_dir() as folder:
            refused(path, "PUT", "/snapshot/load", {"snapshot_path": folder}, code="NotRegularFile")
            empty = clihelp.write(os.path.join(folder, "empty"))
            refused(path, "PUT", "/snapshot/load", {"snapshot_path": empty}, code="BadMagic")


# --- its page -------------------------------------------------------------------------------------


@tap.case
def the_page_lists_every_path_and_every_key():
    with open(tap.source("src", "microvm", "api_routes.c"), encoding="utf-8") as file:
        source = file.read()
    with open(tap.source("doc", "api.md"), encoding="utf-8") as file:
        page = file.read()
    routes = re.findall(r'^    \{ "([A-Z]+)", "(/[^"]*)", \w+ \},', source, re.M)
    tap.true(len(routes) > 10, "routes in the source: %s" % routes)
    listed = re.findall(r"^\| `([A-Z]+) (/[^`]*)` \|", page, re.M)
    tap.equal(sorted((method, path.replace("ID", "")) for method, path in listed), sorted(routes),
              "paths of the page and of the source")
    for key in re.findall(r'^        \{ "(\w+)", API_(?!NOT_OFFERED)', source, re.M):
        tap.true("`%s`" % key in page, "key %s" % key)


tap.main()
