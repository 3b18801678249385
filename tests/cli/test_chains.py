#!/usr/bin/python3
"""`stasis info`, `verify`, `compare`, `flatten` and `rebase` on chains of snapshots.

Golden files are the chain, a full snapshot and two diffs, so no KVM is needed. The Python decoder, which
was written from doc/format/native.md alone, says what must be in the files that the commands make.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import clihelp
import tap

FULL = "v1.0-x86_64-xxh3.stasis"
DIFF = "v1.1-x86_64-diff.stasis"
LAST = "v1.1-x86_64-diff-sha256.stasis"
OTHER = "v1.0-arm64-xxh3.stasis"
MADE_KEYS = ["ok", "format", "path", "id", "memory_bytes", "data_bytes", "zero_bytes", "file_bytes",
             "file_allocated_bytes", "total_us"]


def chain(folder):
    """A copy of the chain in a folder: paths of the full snapshot, the diff and the last diff."""
    for name in (FULL, DIFF, LAST):
        shutil.copy(clihelp.golden(name), folder)
    return [os.path.join(folder, name) for name in (FULL, DIFF, LAST)]


def decoded(path):
    """What the independent decoder finds in a file."""
    decoder = tap.source("tests", "golden", "native_decoder.py")
    ended = subprocess.run([sys.executable, decoder, path], stdout=subprocess.PIPE, check=False)
    return json.loads(ended.stdout)


def same_content(path, other):
    one, two = decoded(path), decoded(other)
    tap.equal(one["memory"], two["memory"], "memory")
    tap.equal(one["machine"], two["machine"], "machine")


@tap.case
def info_shows_the_chain_and_what_each_layer_holds():
    with tap.temp_dir() as folder:
        full, diff, last = chain(folder)
        told = clihelp.answer("info", last)
        tap.equal(told["kind"], "diff", "kind")
        tap.equal(told["ancestors"], 2, "ancestors")
        tap.equal([layer["path"] for layer in told["chain"]], [None, DIFF, FULL], "paths")
        tap.equal([layer["kind"] for layer in told["chain"]], ["diff", "diff", "full"], "kinds")
        tap.equal([layer["id"] for layer in told["chain"]],
                  [clihelp.answer("info", path)["id"] for path in (last, diff, full)], "ids")
        held = {0: 0, 1: 0, 2: 0}
        extents = decoded(last)["chain"]["extents"] + [[told["memory"]["bytes"] // 4096, 0, 0, 0]]
        for (first, _, layer, kind), (end, *_) in zip(extents, extents[1:]):
            held[layer] += (end - first) * 4096 if kind == 1 else 0
        tap.equal([layer["bytes"] for layer in told["chain"]], list(held.values()), "bytes")
        shown = clihelp.done("info", last).out
        for word in ("diff, 2 before it", DIFF, FULL, "this file"):
            tap.true(word in shown, "%r is not in:\n%s" % (word, shown))
        tap.equal(clihelp.answer("info", full)["kind"], "full", "kind of a full one")


@tap.case
def info_needs_no_other_file_of_the_chain_and_verify_does():
    with tap.temp_dir() as folder:
        full, _, last = chain(folder)
        os.unlink(full)
        tap.equal(clihelp.answer("info", last)["ancestors"], 2, "ancestors")
        clihelp.failed("ParentMissing", "verify", last, fmt="native")


@tap.case
def verify_names_the_layer_that_is_damaged():
    with tap.temp_dir() as folder:
        full, _, last = chain(folder)
        clihelp.done("verify", last)
        with open(full, "r+b") as file:
            file.seek(2 << 20)
            byte = file.read(1)
            file.seek(2 << 20)
            file.write(bytes([byte[0] ^ 1]))
        message = clihelp.failed("DigestMismatch", "verify", last, fmt="native")
        tap.true(FULL in message, message)


@tap.case
def flatten_makes_one_file_that_stands_alone():
    with tap.temp_dir() as folder:
        full, diff, last = chain(folder)
        flat = os.path.join(folder, "flat.stasis")
        told = clihelp.answer("flatten", last, "-o", flat)
        tap.equal(list(told), MADE_KEYS, "keys")
        tap.equal(told["id"], clihelp.answer("info", flat)["id"], "id")
        tap.equal(told["data_bytes"], decoded(last)["memory"]["data_size"], "data")
        same_content(flat, last)
        for path in (full, diff, last):
            os.unlink(path)
        tap.equal(clihelp.answer("info", flat)["kind"], "full", "kind")
        clihelp.done("verify", flat)


@tap.case
def flatten_in_place_and_as_text():
    with tap.temp_dir() as folder:
        _, _, last = chain(folder)
        before = decoded(last)
        shown = clihelp.done("flatten", last, "--output", last).out
        tap.true(re.fullmatch(re.escape(last) + r": id [0-9a-f]{64}, .* of data, .* on disk\n", shown),
                 shown)
        tap.equal(decoded(last)["memory"], before["memory"], "memory")
        tap.equal(sorted(os.listdir(folder)), sorted([FULL, DIFF, LAST]), "files")


@tap.case
def compare_tells_fields_pages_and_bytes():
    with tap.temp_dir() as folder:
        full, diff, last = chain(folder)
        same = clihelp.answer("compare", last, last)
        tap.equal([same[key] for key in ("equal", "fields_different", "pages_different", "fields",
                                         "memory")], [True, 0, 0, [], []], "with itself")
        told = clihelp.answer("compare", full, last)
        tap.equal(told["equal"], False, "equal")
        tap.equal(sum(run["bytes"] for run in told["memory"]), told["pages_different"] * 4096, "runs")
        tap.true(0 < told["bytes_different"] <= told["pages_different"] * 4096, "bytes")
        tap.equal(told["pages_compared"] * 4096, decoded(full)["memory"]["size"], "pages")
        shown = clihelp.done("compare", full, diff).out
        tap.true(re.search(r"^memory 0x[0-9a-f]+ \+ 0x[0-9a-f]+$", shown, re.M), shown)
        tap.true(re.search(r"^0 fields differ, and \d+ bytes in \d+ of \d+ pages$", shown, re.M), shown)


@tap.case
def compare_tells_machine_state_by_field_name():
    other = clihelp.golden("v1.0-x86_64-sha256.stasis")
    told = clihelp.answer("compare", clihelp.golden(FULL), other)
    tap.true(told["fields_different"] > 0, "fields")
    tap.true(any(field["path"].startswith("x86_64.") for field in told["fields"]), told["fields"][:3])
    tap.equal(list(told["fields"][0]), ["path", "a", "b"], "keys of a field")


@tap.case
def rebase_makes_the_same_content_on_another_parent():
    with tap.temp_dir() as folder:
        full, diff, last = chain(folder)
        made = os.path.join(folder, "rebased.stasis")
        clihelp.answer("rebase", last, "--parent", full, "--output", made)
        same_content(made, last)
        told = clihelp.answer("info", made)
        tap.equal([told["ancestors"], told["chain"][1]["path"]], [1, FULL], "its chain")
        os.unlink(diff)
        clihelp.done("verify", made)


@tap.case
def rebase_without_an_output_replaces_the_file():
    with tap.temp_dir() as folder:
        full, _, last = chain(folder)
        before = decoded(last)
        clihelp.done("rebase", "-p", full, last)
        tap.equal(decoded(last)["memory"], before["memory"], "memory")
        tap.equal(clihelp.answer("info", last)["ancestors"], 1, "ancestors")


@tap.case
def a_rebase_does_not_replace_what_it_builds_on():
    with tap.temp_dir() as folder:
        full, diff, last = chain(folder)
        clihelp.failed("InvalidArgument", "rebase", "-p", diff, "-o", full, last, fmt="native")
        clihelp.done("verify", last)


@tap.case
def failures_have_their_names():
    with tap.temp_dir() as folder:
        full, _, last = chain(folder)
        made = os.path.join(folder, "made")
        other = os.path.join(folder, "x.stasis")
        shutil.copy(clihelp.golden(OTHER), other)
        os.truncate(other, os.path.getsize(other) - 1)
        clihelp.failed("NotFound", "flatten", folder + "/none", "-o", made)
        clihelp.failed("NotFound", "compare", last, folder + "/none")
        clihelp.failed("NotFound", "rebase", "-p", folder + "/none", "-o", made, last)
        clihelp.failed("Truncated", "compare", other, last, fmt="native")
        clihelp.failed("NotFound", "flatten", last, "-o", folder + "/none/made", fmt="native")
        os.unlink(full)
        clihelp.failed("ParentMissing", "flatten", last, "-o", made, fmt="native")
        tap.true(not os.path.exists(made), "something was left behind")


tap.main()
