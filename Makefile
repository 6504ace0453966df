# `make run` and `make test` are enough on a fresh machine.

.POSIX:
PORT ?= 2525
STATUS_PORT ?= 9125
SECONDS ?= 60
N ?= 10
MAILS ?= 5000000

# The paths of `make install`, below DESTDIR if that is set; docs/install.md explains each.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
STATEDIR ?= /var/lib/goguerrilla
# Programs for administrators are in sbin, as with other mail servers.
SBINDIR ?= $(PREFIX)/sbin
# Where debuggers and backtraces look for the symbols of a stripped program; empty leaves them in the program.
SYMBOLDIR ?= $(SBINDIR)/.debug
MANDIR ?= $(PREFIX)/share/man
DOCDIR ?= $(PREFIX)/share/doc/goguerrilla
UNITDIR ?= $(PREFIX)/lib/systemd/system
CONFIG = $(SYSCONFDIR)/goguerrilla/goguerrilla.conf
PLACES = DESTDIR='$(DESTDIR)' SBINDIR='$(SBINDIR)' SYMBOLDIR='$(SYMBOLDIR)' MANDIR='$(MANDIR)' DOCDIR='$(DOCDIR)' \
    UNITDIR='$(UNITDIR)' CONFIG='$(CONFIG)' STATEDIR='$(STATEDIR)'

.PHONY: run build quick test repeat test-deps compat check audit certs bench bench-quick soak endurance fuzz tools \
    screenshots man install uninstall deb image

# Builds the server and runs it on 127.0.0.1:$(PORT) with STARTTLS; Ctrl-C stops it. The first run makes
# goguerrilla.conf from the sample and a certificate in certs/. Prints where the status page is: on port $(STATUS_PORT), or on
# the next free one.
run: build certs goguerrilla.conf
	@./dist/run ./target/release/goguerrilla $(PORT) $(STATUS_PORT)

goguerrilla.conf:
	sed -e 's|"GSMTP_PUB_KEY": ""|"GSMTP_PUB_KEY": "certs/mail.cert.pem"|' \
	    -e 's|"GSMTP_PRV_KEY": ""|"GSMTP_PRV_KEY": "certs/mail.key.pem"|' \
	    -e 's|"GM_STATUS_INTERFACE": ""|"GM_STATUS_INTERFACE": "127.0.0.1:$(STATUS_PORT)"|' \
	    -e 's|"GM_FEED": ""|"GM_FEED": "http"|' goguerrilla.conf.sample > $@

# Makes a key and a self-signed certificate for trying TLS. Never commit them.
certs: certs/mail.cert.pem

certs/mail.cert.pem:
	umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
	    -subj "/CN=$$(hostname)" -keyout certs/mail.key.pem -out $@
	chmod 644 $@

build:
	cargo build --release --locked

# Checks formatting, lints and documentation without warnings, also without the Cargo features of the stores, and that the
# fuzz targets (they are not linked) and the example for PostgreSQL still compile and the package builds.
check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --test compat --test soak -- -D warnings
	set -e; for features in '' sqlite mysql; do \
	    cargo clippy --locked --all-targets --no-default-features --features "$$features" -- -D warnings; \
	done
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
	CUSTOM_LIBFUZZER_PATH=/none/libfuzzer.a cargo check --locked --manifest-path fuzz/Cargo.toml \
	    --target-dir "$${CARGO_TARGET_DIR:-target}"
	cargo fmt --check --manifest-path examples/postgres-store/Cargo.toml
	cargo clippy --locked --manifest-path examples/postgres-store/Cargo.toml \
	    --target-dir "$${CARGO_TARGET_DIR:-target}" -- -D warnings
	cargo package --locked --allow-dirty --quiet

# Checks a change in under a minute after a build: formatting, lints, and the tests that need no other program and no root.
quick:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo test --locked --test protocol

# Runs every test but those of `make soak` against real clients and servers. First installs those that are missing, if it
# runs as root on Debian, and otherwise prints their packages: then the tests that need them are ignored. First runs the
# tests of the program without some stores; the last build is the complete program. Last, runs each micro-benchmark once,
# which checks its result.
test: tools
	set -e; for features in '' sqlite mysql; do \
	    cargo test --locked --no-default-features --features "$$features" --lib --test features --test embedding; \
	done
	cargo test --locked --workspace --no-fail-fast
	cargo test --locked --bench micro

# Runs `make test` N times next to a process that takes one core, and prints the seconds and the result of each run.
repeat:
	@./tests/repeat $(N)

# Runs the tests of the stores against MySQL, MariaDB, Redis and Valkey of Debian sid, over TCP and Unix sockets, and prints
# a table. Needs root and debootstrap; takes about twenty minutes, and 2.5 GB below target/compat.
compat:
	@./tests/compat/run

# Checks licenses, sources and duplicate versions of all dependencies with cargo-deny, without network access. With
# ADVISORY_DB=FOLDER, a clone of RustSec's advisory-db, also checks for advisories and unmaintained crates.
audit:
	@ADVISORY_DB='$(ADVISORY_DB)' ./tests/audit

# Measures the server next to Postfix, aiosmtpd and openssl's s_server in alternating runs, then how cost grows with sessions,
# rows and receivers, and compression with libdeflate alone. Prints Markdown tables and writes values and pictures to
# target/bench, or with OUT=docs to docs; takes about 15 minutes. ROWS='peers tls' measures some groups only: sessions, sizes,
# peers, versions (next to the older program GOGUERRILLA_OLD), latency, handshakes, tls, domains, growth-allowed-hosts,
# growth-sessions, growth-rows, growth-receivers. ROWS=pages measures nothing and makes pictures and tables again from the values.
bench: tools
	GOGUERRILLA_BENCH_FOLDER='$(OUT)' cargo bench --locked --bench throughput -- $(ROWS)
	@[ -n '$(ROWS)' ] || cargo bench --locked --bench compression

# Runs the groups that have pictures with small counts in an unoptimized build, to try the benchmark itself.
bench-quick: tools
	GOGUERRILLA_BENCH_QUICK=1 cargo test --locked --bench throughput -- $(ROWS)

# Runs the long tests in a release build, for about 25 minutes, with hold, feed, retention and TLS to the databases: at
# least 100 rounds of kill -9 and 100,000 acknowledged mails, of which none may be lost; then a cluster whose nodes and
# receivers are killed and whose rate must recover within ten seconds. Then, for some minutes, fails each system call of a
# kind once, from the first to the last.
soak: tools
	cargo test --release --locked --test soak -- --nocapture --test-threads=1
	GUERRILLA_TEST_ROUNDS=1000 cargo test --release --locked --test system -- --nocapture --test-threads=1 fault_injection::

# Sends MAILS mails of mixed sizes through one process, at least 200,000, and fails if its memory, threads or descriptors grow.
# Writes the series and its picture to target/bench, or with OUT=docs to docs. Five million need 10 GB of disk, in the folder
# TMPDIR, and about ten minutes on two cores, more on a slow disk.
endurance:
	GUERRILLA_TEST_MAILS='$(MAILS)' GOGUERRILLA_BENCH_FOLDER='$(OUT)' \
	    cargo test --release --locked --test soak -- --nocapture endurance::

# Runs each fuzz target for a minute, or for SECONDS; needs nightly and cargo-fuzz. `fuzz/run 60 TARGET` runs one.
fuzz:
	@./fuzz/run $(SECONDS)

# Makes the pictures of the status page for the documentation in docs/img, after five minutes of mail; needs Chromium.
screenshots:
	GOGUERRILLA_SCREENSHOTS='$(CURDIR)/docs/img' cargo test --locked --test system -- status_page::screenshots

# Installs the Debian packages of the programs that tests and benchmarks use, with sudo unless it runs as root.
test-deps:
	@./tests/install-tools --sudo

# As test-deps, but installs only as root on Debian, and otherwise prints what is missing.
tools:
	@./tests/install-tools

# The man pages are committed, so that installing needs no cargo; a test fails if they are out of date.
man:
	cargo run --locked --example man dist

# Installs the server, as root, or as any user with DESTDIR. BINARY names another program than the release build; GUID
# and SGID other ids than those of a new user goguerrilla.
install:
	@$(PLACES) BINARY='$(BINARY)' GUID='$(GUID)' SGID='$(SGID)' ./dist/install

# Makes a package for Debian in target/deb or OUT. BINARY and VERSION replace the release build and the version of Cargo.toml.
deb:
	@[ -n '$(BINARY)' ] || cargo build --release --locked
	@BINARY='$(BINARY)' VERSION='$(VERSION)' OUT='$(OUT)' ./dist/build-deb

# Makes an image for containers, IMAGE, with buildah, podman or docker, whose libraries are from the image BASE.
IMAGE ?= goguerrilla
image:
	@[ -n '$(BINARY)' ] || cargo build --release --locked
	@BINARY='$(BINARY)' IMAGE='$(IMAGE)' BASE='$(BASE)' ./dist/build-image

# Uninstalls the server but keeps data, configuration and user.
uninstall:
	@$(PLACES) ./dist/uninstall
