# Two words do everything on a fresh machine: `make run` and `make test`.

.POSIX:
PORT ?= 2525
SECONDS ?= 60

# Where `make install` puts things, below DESTDIR if that is set; README.md tells what each is for.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
STATEDIR ?= /var/lib/goguerrilla
# Administration is done by root, and what root alone needs is in sbin, as with other mail servers.
SBINDIR ?= $(PREFIX)/sbin
MANDIR ?= $(PREFIX)/share/man/man8
DOCDIR ?= $(PREFIX)/share/doc/goguerrilla
UNITDIR ?= $(PREFIX)/lib/systemd/system
CONFIG = $(SYSCONFDIR)/goguerrilla/goguerrilla.conf
PLACES = DESTDIR='$(DESTDIR)' SBINDIR='$(SBINDIR)' MANDIR='$(MANDIR)' DOCDIR='$(DOCDIR)' UNITDIR='$(UNITDIR)' \
    CONFIG='$(CONFIG)' STATEDIR='$(STATEDIR)'

.PHONY: run build test check certs bench soak fuzz tools man install uninstall

# Builds the server and runs it on 127.0.0.1:$(PORT), with STARTTLS; Ctrl-C stops it. The first time it makes
# goguerrilla.conf from the sample and a certificate of its own in certs/.
run: build certs goguerrilla.conf
	./target/release/goguerrilla -config=goguerrilla.conf -if=127.0.0.1:$(PORT)

goguerrilla.conf:
	sed -e 's|"GSMTP_PUB_KEY": ""|"GSMTP_PUB_KEY": "certs/mail.cert.pem"|' \
	    -e 's|"GSMTP_PRV_KEY": ""|"GSMTP_PRV_KEY": "certs/mail.key.pem"|' goguerrilla.conf.sample > $@

# A key and a self-signed certificate to try TLS with. Never committed.
certs: certs/mail.cert.pem

certs/mail.cert.pem:
	umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
	    -subj "/CN=$$(hostname)" -keyout certs/mail.key.pem -out $@
	chmod 644 $@

build:
	cargo build --release --locked

# Formatting, lints and documentation, without a warning; and that the fuzz targets still fit, which nothing is linked for.
check:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
	CUSTOM_LIBFUZZER_PATH=/none/libfuzzer.a cargo check --locked --manifest-path fuzz/Cargo.toml \
	    --target-dir "$${CARGO_TARGET_DIR:-target}"

# Every test, against real clients and servers; installs those that are missing.
test: tools
	cargo test --locked --no-fail-fast

# Beside Postfix's smtp-sink, and in TLS beside openssl's s_server, in alternating runs; then how cost grows with sessions, rows
# and receivers. Prints tables; takes about twelve minutes.
bench: tools
	cargo bench --locked --bench throughput

# The promise, for about twenty minutes, in a release build: at least 100 rounds of kill -9 and 100,000 acknowledged mails, of
# which none is lost; then a fleet whose nodes and receivers are killed, and whose rate is back within ten seconds. Then, for
# some minutes, each system call of a kind fails once, the first to the very last one.
soak: tools
	cargo test --release --locked --test all -- --ignored --nocapture --test-threads=1 soak_of_
	GOGUERRILLA_ROUNDS=1000 cargo test --release --locked --test all -- --nocapture --test-threads=1 anomalies::

# Each fuzz target for a minute, or for SECONDS; needs nightly and cargo-fuzz. `fuzz/run 60 TARGET` runs one.
fuzz:
	@./fuzz/run $(SECONDS)

# The programs that tests and measurements talk to.
tools:
	@./tests/install-tools

# The man page is kept, so that installing needs no cargo; a test tells when it is out of date.
man:
	cargo run --locked --example man >dist/goguerrilla.8.new
	mv dist/goguerrilla.8.new dist/goguerrilla.8

# As root, or anybody with DESTDIR. BINARY is another program than the release build; GUID and SGID other ids than those
# of a new user goguerrilla.
install:
	@$(PLACES) BINARY='$(BINARY)' GUID='$(GUID)' SGID='$(SGID)' ./dist/install

# Leaves data, configuration and user.
uninstall:
	@$(PLACES) ./dist/uninstall
