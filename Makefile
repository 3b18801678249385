# The front door; Meson does the work in build/. As root, what Debian packages are missing is
# installed first.
#
#   make                          build
#   make demo                     boot a guest, save it, kill it, restore it, and check that it goes on
#   make test [SUITE=unit]        build and run all tests, or one suite (unit golden cli vm crash linux checks)
#   make bench                    measure
#   make bench-memory             measure the memory engine: saves, diffs, chains, with their bounds
#   make install [DESTDIR=] [PREFIX=/usr/local]
#   make check-format             is the code formatted as .clang-format says?
#   make clean                    remove what was built

BUILD = build
PREFIX =
DESTDIR =
SUITE =
MESON_FLAGS = # for a new build folder, e.g. -Dwerror=true
export DESTDIR PREFIX

all: deps
	@scripts/build.sh $(BUILD) $(MESON_FLAGS)

deps:
	@scripts/install-deps.sh

test: all
	@scripts/run-tests --build $(BUILD) $(SUITE:%=--suite %)

demo: all
	@scripts/demo.sh $(BUILD)

bench: all
	@scripts/bench.sh $(BUILD)

bench-memory: all
	@$(BUILD)/bench/bench_memory

install: all
	@scripts/install.sh $(BUILD)

check-format:
	@scripts/check-format

clean:
	@scripts/build.sh --remove $(BUILD)

.PHONY: all deps test demo bench bench-memory install check-format clean
