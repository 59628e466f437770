# `make demo` and `make test` set everything up by themselves; see README.md.
SHELL := /bin/bash
.PHONY: setup build demo test check deny parity zoo golden

setup:
	@scripts/setup.sh

build: setup
	cargo build --release --workspace --bins
