# Two commands matter: `make run` and `make test`. Both call `make install`, and both may be repeated.
#
# Python 3.11, 3.12 or 3.13: Debian 12's own, unless another is named: make PYTHON=python3.13 VENV=.venv-3.13
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install run test lint page coverage mutations chaos fuzz bench bench-quick containers lock wheel audit suricata
.PHONY: nats system system-page system-test clean

# Tests start hundreds of interpreters: where this is set, each compiles everything again, and all takes half as long again.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11) $(shell command -v python3.11))
PORT ?= 8443
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# What pypcap is compiled with, and what the tests drive. dpkg-query decides, so a machine that has them needs no root.
SYSTEM := gcc libc6-dev libpcap-dev python3-dev python3-venv
SYSTEM_TEST := ethtool grep iproute2 nftables openssl procps strace systemd tcpdump tcpreplay tshark util-linux
SYSTEM_BENCH := netcat-openbsd socat zstd
SYSTEM_CONTAINERS := aardvark-dns buildah debootstrap netavark podman runc

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(MAKEFILE_LIST)

# $(1): packages. Installs those that dpkg does not know as installed.
define apt
	@missing=""; for p in $(1); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q ' installed$$' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then echo "installing with apt-get:$$missing"; \
	  $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
endef

system:
	$(call apt,$(SYSTEM))

system-test: system
	$(call apt,$(SYSTEM_TEST))

# From Debian; without recommended packages some twenty seconds. The fonts are for who looks at its screenshots.
SYSTEM_PAGE := chromium fonts-dejavu-core
system-page: system-test
	$(call apt,$(SYSTEM_PAGE))

page: system-page install $(VENV)/.installed-test  ## the tests that look at the vSensor's page with Chromium; a minute
	@$(BIN)/pytest -s tests/page $(PYTEST_ARGS)

# Suricata is not in Debian 12 but in its backports. Unpacked below build/, not installed: no root, no service that starts.
SURICATA := $(CURDIR)/build/suricata
suricata: $(SURICATA)/.unpacked  ## the Suricata that tests/netns/test_streams.py needs, below build/; some six seconds
$(SURICATA)/.unpacked:
	@echo "unpacking Suricata into $(SURICATA)"
	@rm -rf $(SURICATA) && mkdir -p $(SURICATA)/lists/partial $(SURICATA)/archives/partial && cd $(SURICATA) && \
	code=$$(. /etc/os-release && echo $$VERSION_CODENAME) && \
	site=$$(apt-get indextargets --format '$$(SITE)' 'Created-By: Packages' "Codename: $$code" | head -n 1) && \
	{ cat /etc/apt/sources.list 2>/dev/null; echo "deb $$site $$code-backports main"; } > backports.list && \
	options="-qq -o Dir::Etc::sourcelist=$$PWD/backports.list -o Dir::State::Lists=$$PWD/lists -o Debug::NoLocking=1 \
	  -o Dir::Cache::archives=$$PWD/archives -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=" && \
	apt-get $$options update && \
	apt-get $$options install -y --download-only --no-install-recommends -t $$code-backports suricata >/dev/null && \
	for package in archives/*.deb; do dpkg -x $$package . || exit 1; done && rm -rf lists archives && touch .unpacked

# nats-server likewise: installed, it would be a service that listens on all addresses.
NATS := $(CURDIR)/build/nats
nats: $(NATS)/.unpacked  ## the nats-server that the JetStream tests need, below build/; some three seconds
$(NATS)/.unpacked:
	@echo "unpacking nats-server into $(NATS)"
	@rm -rf $(NATS) && mkdir -p $(NATS) && cd $(NATS) && { apt-get download -qq nats-server 2>/dev/null || \
	  { $(SUDO) apt-get update -qq && apt-get download -qq nats-server; }; } && dpkg -x nats-server_*.deb . && touch .unpacked

install: system $(VENV)/.installed  ## make .venv with the sensor and the vSensor

$(VENV)/bin/python:
	@if [ -n "$(PYTHON)" ]; then py="$(PYTHON)"; else py=/usr/bin/python3.11; fi; \
	"$$py" -m venv $(VENV)

# The native loop is compiled by the install, so a change to it is a reason for one.
NATIVE := $(wildcard ossensor/capture/native/*.[ch] ossensor/confine/*.c)

# Where pypcap's sdist does not build, a wheel of it is made first, and what follows is content with that.
$(VENV)/.pypcap: deploy/python/pypcap.py | $(VENV)/bin/python
	@mkdir -p $(VENV)/wheels && $(BIN)/python deploy/python/pypcap.py $(VENV)/wheels
	@for w in $(VENV)/wheels/*.whl; do [ ! -e "$$w" ] || $(BIN)/pip install -qq --disable-pip-version-check "$$w"; done
	@touch $@

$(VENV)/.installed: pyproject.toml $(NATIVE) $(VENV)/.pypcap | $(VENV)/bin/python
	@echo "installing ossensor into $(VENV)"
	@$(BIN)/pip install -qq --disable-pip-version-check -e '.[vsensor,jetstream]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(NATIVE) $(VENV)/.installed
	@echo "installing the test tools into $(VENV)"
	@$(BIN)/pip install -qq --disable-pip-version-check -e '.[vsensor,jetstream,test]'
	@touch $@

run: install  ## a local vSensor and the sensor against it, until Ctrl-C
	@PORT=$(PORT) $(BIN)/python deploy/local/run.py

lint: system-test install $(VENV)/.installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# $(1): options of pytest, in a user namespace where there is no root.
define pytest
if [ "$$(id -u)" = 0 ]; then $(BIN)/pytest $(1) $(PYTEST_ARGS); \
elif unshare -rnm true 2>/dev/null; then \
  unshare -rnm sh -c 'ip link set lo up && exec $(BIN)/pytest $(1) $(PYTEST_ARGS)'; \
else $(BIN)/pytest $(1) $(PYTEST_ARGS); fi
endef

# Most tests wait for something most of the time, so three run at once. Those that measure or flood run alone.
test: lint suricata nats system-page  ## lint, types, and every test; in a user namespace where there is no root
	@$(call pytest,-n 3 --dist loadscope --no-loadscope-reorder -m "not alone"); together=$$?; \
	$(call pytest,-m alone) && exit $$together

# The tests that the core is to be covered by; what others happen to call is not meant to be tried.
CORE_TESTS := tests/model tests/ecs/test_add_sidecar.py $(patsubst %,tests/unit/test_%.py,accounting antigena_actions \
  antigena_backlog antigena_enforcer antigena_filters antigena_guards antigena_pace antigena_resets antigena_segments \
  antigena_table antigena_watch antigena_words assembler backoff budget children compression confine direct endpoint ere \
  errors filters hostport interfaces introduction order_replies orderbook orders outage_times pcapng protocol ratelimit \
  recipe region registration retry settings short_of_descriptors signing slots spoolfile status tally variables \
  vsensor_replay vsensor_section window)

coverage: install $(VENV)/.installed-test  ## every branch of the pure core is taken by a unit test; some minutes
	@mkdir -p .run && $(BIN)/coverage run -m pytest -q $(CORE_TESTS) $(PYTEST_ARGS) && $(BIN)/coverage report

mutations: system install $(VENV)/.installed-test  ## faults injected into a copy, one by one: a test must notice each; WORDS=
	@$(BIN)/python tests/mutations/run.py $(WORDS)

# What has a longer form than the one that `make test` runs.
CHAOS := tests/chaos tests/model $(patsubst %,tests/netns/test_%.py,outages kills slow_vsensor handover scale_out resets \
  sudden_end signal_storms processes failing_calls flaps soak crash_loop memory restarts)
chaos: system-test install $(VENV)/.installed-test nats  ## faults of every kind at once, and outages of a minute each; hours; root
	@OSSENSOR_CHAOS=1 $(BIN)/pytest -s $(CHAOS) $(PYTEST_ARGS)

fuzz: install $(VENV)/.installed-test $(VENV)/.installed-fuzz  ## every parser by atheris, and 100,000 changed requests; half an hour
	@$(BIN)/python tests/fuzz/run.py $(FUZZ_ARGS)
	@OSSENSOR_FUZZ_REQUESTS=100000 OSSENSOR_API_EXAMPLES=200 $(BIN)/pytest -s --timeout 3600 \
	  tests/unit/test_vsensor_fuzz.py tests/unit/test_vsensor_openapi.py $(PYTEST_ARGS)
	@OSSENSOR_EXAMPLES=2000 $(BIN)/pytest -s --timeout 3600 $$(grep -l '^@given' tests/unit/test_*.py) $(PYTEST_ARGS)

# In the tests' environment, beside what they need; `make test` does without.
$(VENV)/.installed-fuzz: pyproject.toml $(VENV)/.installed-test
	@echo "installing atheris into $(VENV)"
	@$(BIN)/pip install -qq --disable-pip-version-check -e '.[fuzz]'
	@touch $@

bench: system-test install  ## everything measured beside its peers, into docs/performance.md; an hour, root
	$(call apt,$(SYSTEM_BENCH))
	@$(BIN)/python bench/run.py $(BENCH_ARGS)

bench-quick: system-test install  ## the same from one short round of each; some five minutes, root
	$(call apt,$(SYSTEM_BENCH))
	@$(BIN)/python bench/run.py --quick $(BENCH_ARGS)

containers: system-test install $(VENV)/.installed-test  ## build both images and run them as on Fargate; root, podman
	$(call apt,$(SYSTEM_CONTAINERS))
	@$(BIN)/pytest -s --timeout 1200 tests/containers $(PYTEST_ARGS)

# What is installed into the images, each package with the hashes of all its files, for every architecture.
COMPILE := .run/lock/bin/pip-compile -q --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links \
  --no-header --no-annotate
lock:  ## pin again what the images are made of (deploy/requirements*.txt), to what is newest
	@mkdir -p .run && "$(PYTHON)" -m venv .run/lock && .run/lock/bin/pip install -q pip-tools
	@$(COMPILE) --upgrade -o deploy/requirements.txt pyproject.toml
	@$(COMPILE) --upgrade --extra vsensor -c deploy/requirements.txt -o deploy/requirements-vsensor.txt pyproject.toml
	@echo 'setuptools>=74.1' | $(COMPILE) --upgrade --allow-unsafe -o deploy/requirements-build.txt -

wheel: system $(VENV)/.pypcap  ## dist/: the wheel of ossensor, and of pypcap where its sdist does not build
	@mkdir -p dist && $(BIN)/pip wheel -qq --disable-pip-version-check --no-deps -w dist .
	@for w in $(VENV)/wheels/*.whl; do [ ! -e "$$w" ] || cp "$$w" dist/; done
	@ls dist

audit: $(VENV)/bin/python  ## known vulnerabilities in what the images are made of
	@mkdir -p .run && "$(PYTHON)" -m venv .run/audit && .run/audit/bin/pip install -qq pip-audit
	@for list in requirements requirements-vsensor requirements-build; do \
	  .run/audit/bin/pip-audit --strict --require-hashes --disable-pip -r deploy/$$list.txt || exit 1; done

clean:  ## remove what the targets above made
	rm -rf $(VENV) .run build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
