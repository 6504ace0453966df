# Two words do everything on a fresh machine: `make run` and `make test`.

.POSIX:
PORT ?= 2525

.PHONY: run build test check bench tools

# Builds the server and runs it on 127.0.0.1:$(PORT); Ctrl-C stops it.
run: build
	./target/release/goguerrilla -if=127.0.0.1:$(PORT)

build:
	cargo build --release --locked

# Formatting, lints and documentation, without a warning.
check:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet

# Every test, against real clients and servers; installs those that are missing.
test: tools
	cargo test --locked --no-fail-fast

# Beside Postfix's smtp-sink, in alternating runs; prints a table.
bench: tools
	cargo bench --locked --bench throughput

# The programs that tests and measurements talk to.
tools:
	@./tests/install-tools
