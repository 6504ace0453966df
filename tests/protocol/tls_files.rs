//! The files of GSMTP_PUB_KEY and GSMTP_PRV_KEY: each mistake is reported with its fix, and each harmless form is
//! accepted.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use goguerrilla::internals::net::tls::{TlsCredentials, TlsFiles};
use tempfile::TempDir;

use testkit::process::run;
use testkit::{test, write_config};

/// Shell script that makes a root, two intermediates, the server's certificates with their keys, and unusable and
/// unusual ones.
const MAKE_SCRIPT: &str = r#"
set -e
new() { openssl req -new -newkey "$2" -nodes -keyout $1.key -out $1.csr -subj "/CN=$1" $3 $4 2>/dev/null; }
self() { openssl x509 -req -in $1.csr -signkey $1.key -out $1.pem -days 90 -extfile ca.ext 2>/dev/null; }
sign() { openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -out $1.pem -days 90 -extfile $3.ext 2>/dev/null; }
echo basicConstraints=critical,CA:TRUE > ca.ext
echo subjectAltName=DNS:mx.test > leaf.ext
for name in root outer inner mx other; do new $name ec -pkeyopt ec_paramgen_curve:P-256; done
self root; sign outer root ca; sign inner outer ca; sign mx inner leaf; self other
cat mx.pem inner.pem outer.pem > full.pem
cat mx.pem inner.pem outer.pem root.pem > with-root.pem
cat mx.pem outer.pem inner.pem > swapped.pem
cat mx.pem other.pem inner.pem outer.pem > foreign.pem
cat inner.pem mx.pem outer.pem > leaf-second.pem
cat outer.pem inner.pem mx.pem > leaf-last.pem
openssl pkcs8 -topk8 -in mx.key -passout pass:x -out encrypted.key
openssl genrsa -aes128 -traditional -passout pass:x -out legacy.key 2048 2>/dev/null
new rsa rsa:2048; self rsa
openssl rsa -in rsa.key -traditional -aes128 -passout pass:x -out rsa-legacy.key 2>/dev/null
new small rsa:1024; self small
openssl rsa -in small.key -traditional -out small-pkcs1.key 2>/dev/null
openssl pkcs12 -export -in full.pem -inkey mx.key -passout pass:x -out mx.p12
openssl x509 -in mx.pem -outform DER -out mx.der
openssl pkey -in mx.key -outform DER -out mx.key.der
openssl rsa -in rsa.key -outform DER -traditional -out rsa.key.der 2>/dev/null
openssl req -in mx.csr -outform DER -out mx.csr.der
openssl pkey -in mx.key -pubout -out public.pem
openssl crl2pkcs7 -nocrl -certfile full.pem -out mx.p7b
openssl x509 -in mx.pem -trustout -out trusted.pem
iconv -f ASCII -t UTF-16 mx.pem > utf16.pem
: > empty
printf ' \n\n' > blank
head -c 300 mx.pem > cut.pem
openssl ecparam -name secp256k1 -genkey -out k1.key
openssl ecparam -name prime256v1 -genkey -param_enc explicit -noout -out explicit.key
openssl req -x509 -key explicit.key -subj /CN=mx -days 90 -out explicit.pem
openssl ecparam -name prime256v1 -genkey -out with-parameters.key
openssl req -x509 -key with-parameters.key -subj /CN=mx -days 90 -out with-parameters.pem
openssl genpkey -algorithm ed448 -out ed448.key
openssl genpkey -algorithm x25519 -out x25519.key
openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out pss.key 2>/dev/null
openssl dsaparam -genkey -out dsa-pkcs8.key 1024 2>/dev/null
openssl pkey -in dsa-pkcs8.key -traditional -out dsa.key
openssl x509 -req -in mx.csr -signkey mx.key -days 90 -out version1.pem 2>/dev/null
openssl genpkey -algorithm ed25519 -out ed25519.key
openssl req -x509 -key ed25519.key -subj /CN=mx -days 90 -out ed25519.pem
for file in full.pem mx.key; do sed 's/$/\r/' $file > crlf-$file; { printf '\357\273\277'; cat $file; } > bom-$file; done
cat mx.key full.pem > both.pem
cat rsa-legacy.key rsa.pem > both-encrypted.pem
{ echo 'Bag Attributes'; echo '    localKeyID: 01'; openssl x509 -in mx.pem -text; cat inner.pem outer.pem; } > text.pem
chmod go-rwx *
"#;

const SWAPPED: &str = "; GSMTP_PUB_KEY names the file of the certificates, GSMTP_PRV_KEY that of the key: are they swapped?";
const NEW_KEY: &str = "; make a new key and have a certificate issued for it: openssl req ";
const KEY: &str = "expected a private key (PKCS#8, PKCS#1 or SEC1)";
const CHAIN: &str = "expected a certificate in PEM form";
const USABLE: &str =
    "expected an RSA key of 2048 to 8192 bits or an EC key on P-256, P-384 or P-521";

#[test]
fn unusable_tls_files_are_reported_with_their_cause_and_fix() {
    let folder = make_files();
    let key =
        |found: &str, file: &str| format!("GSMTP_PRV_KEY: {KEY} in {file}, but found {found}");
    let usable = |found: &str, file: &str| {
        format!("GSMTP_PRV_KEY: {USABLE} in {file}, but found {found}{NEW_KEY}")
    };
    let chain =
        |found: &str, file: &str| format!("GSMTP_PUB_KEY: {CHAIN} in {file}, but found {found}");
    let second = |number: u8, file: &str| {
        format!(
            "GSMTP_PUB_KEY: expected the server's certificate first in {file}, but the key in mx.key belongs to certificate {number} of \
             it; put that one first and after each certificate its issuer: cat "
        )
    };
    let encrypted = "an encrypted private key";
    for (chain_file, key_file, expected) in [
        ("full.pem", "encrypted.key", key(&format!("{encrypted}; store it without its passphrase: openssl pkey -in encrypted.key -out "), "encrypted.key")),
        ("rsa.pem", "rsa-legacy.key", key(&format!("{encrypted}; store it without its passphrase: openssl pkey -in rsa-legacy.key -out "), "rsa-legacy.key")),
        ("encrypted.key", "mx.key", chain(&format!("{encrypted}{SWAPPED}; "), "encrypted.key")),
        ("both-encrypted.pem", "rsa.key", chain(&format!("{encrypted}; store it without "), "both-encrypted.pem")),
        ("small.pem", "small.key", usable("an RSA key of 1024 bits", "small.key")),
        ("small.pem", "small-pkcs1.key", usable("an RSA key of 1024 bits", "small-pkcs1.key")),
        ("small.pem", "rsa.key", format!(
            "GSMTP_PUB_KEY: expected an RSA key of at least 2048 bits in the certificate in small.pem, but found one of 1024 bits{NEW_KEY}"
        )),
        ("leaf-second.pem", "mx.key", second(2, "leaf-second.pem")),
        ("leaf-last.pem", "mx.key", second(3, "leaf-last.pem")),
        ("mx.key", "full.pem", chain(&format!("a private key{SWAPPED}\n"), "mx.key")),
        ("full.pem", "inner.pem", key(&format!("a certificate{SWAPPED}\n"), "inner.pem")),
        ("mx.p12", "mx.key", chain("a PKCS#12 file; take the PEM part out of it: openssl pkcs12 -in mx.p12 -nokeys -out ", "mx.p12")),
        ("full.pem", "mx.p12", key("a PKCS#12 file; take the PEM part out of it: openssl pkcs12 -in mx.p12 -nocerts -nodes -out ", "mx.p12")),
        ("mx.der", "mx.key", chain("a certificate in DER form; convert it: openssl x509 -inform DER -in mx.der -out ", "mx.der")),
        ("full.pem", "mx.key.der", key("a private key in DER form; convert it: openssl pkey -inform DER -in mx.key.der -out ", "mx.key.der")),
        ("full.pem", "rsa.key.der", key("a private key in DER form; convert it: openssl pkey ", "rsa.key.der")),
        ("mx.key.der", "mx.key", chain(&format!("a private key in DER form{SWAPPED}"), "mx.key.der")),
        ("mx.csr", "mx.key", chain("a certificate signing request; name the certificate ", "mx.csr")),
        ("mx.csr.der", "mx.key", chain("a certificate signing request; name the certificate ", "mx.csr.der")),
        ("public.pem", "mx.key", chain("a public key alone; ", "public.pem")),
        ("full.pem", "public.pem", key("a public key; name the private one\n", "public.pem")),
        ("mx.p7b", "mx.key", chain("a PKCS#7 file; take the certificates out of it: openssl pkcs7 -print_certs ", "mx.p7b")),
        ("trusted.pem", "mx.key", chain("a certificate in another form; convert it: openssl x509 ", "trusted.pem")),
        ("utf16.pem", "mx.key", chain("UTF-16 text; save it as ASCII or UTF-8\n", "utf16.pem")),
        ("empty", "mx.key", chain("an empty file\n", "empty")),
        ("full.pem", "blank", key("an empty file\n", "blank")),
        ("cut.pem", "mx.key", chain("a block \"BEGIN CERTIFICATE\" that is damaged or not complete; ", "cut.pem")),
        ("ca.ext", "mx.key", chain("none\n", "ca.ext")),
        ("full.pem", "k1.key", usable("an EC key on curve secp256k1", "k1.key")),
        ("explicit.pem", "explicit.key", format!(
            "GSMTP_PUB_KEY: expected a named curve in the certificate in explicit.pem, but found an EC key with explicit \
             parameters, which TLS clients refuse{NEW_KEY}"
        )),
        ("full.pem", "ed448.key", usable("an Ed448 key", "ed448.key")),
        ("full.pem", "x25519.key", usable("an X25519 key, which cannot sign", "x25519.key")),
        ("full.pem", "pss.key", usable("an RSASSA-PSS key, which TLS libraries seldom take", "pss.key")),
        ("full.pem", "dsa-pkcs8.key", usable("a DSA key, which TLS no longer uses", "dsa-pkcs8.key")),
        ("full.pem", "dsa.key", key(&format!("a DSA key, which TLS no longer uses{NEW_KEY}"), "dsa.key")),
        ("version1.pem", "mx.key", "GSMTP_PUB_KEY: expected a certificate of X.509 version 3 in version1.pem, but found version 1, ".to_owned()),
        ("full.pem", "rsa.key", "GSMTP_PRV_KEY: the key in rsa.key does not fit the certificate in full.pem: ".to_owned()),
        ("/dev/zero", "mx.key", "GSMTP_PUB_KEY: cannot read /dev/zero: the file is longer than 1048576 octets; ".to_owned()),
    ] {
        let (status, output) = check(folder.path(), chain_file, key_file);
        let expected = format!("error: {expected}");
        assert!(status == 1 && output.starts_with(&expected), "{output}expected {expected}");
        assert_eq!(output.lines().count(), 1, "{output}");
        let started = run(folder.path(), &["-config=goguerrilla.conf"]);
        assert_eq!(started.stderr, output.replacen("error", "goguerrilla", 1));
        assert_eq!(started.status, 1, "{chain_file} {key_file}");
    }
}

#[test]
fn valid_tls_file_variants_are_accepted_without_warnings() {
    let folder = make_files();
    for (chain, key) in [
        ("full.pem", "mx.key"),
        ("with-root.pem", "mx.key"),
        ("other.pem", "other.key"),
        ("rsa.pem", "rsa.key"),
        ("crlf-full.pem", "crlf-mx.key"),
        ("bom-full.pem", "bom-mx.key"),
        ("with-parameters.pem", "with-parameters.key"),
        ("both.pem", "both.pem"),
        ("text.pem", "mx.key"),
    ] {
        assert_eq!(
            check(folder.path(), chain, key),
            (0, String::new()),
            "{chain} {key}"
        );
    }
}

#[test]
fn misordered_or_incomplete_chains_cause_warnings_but_are_served() {
    let folder = make_files();
    for (chain, key, expected) in [
        (
            "swapped.pem",
            "mx.key",
            "the certificates in swapped.pem are in the wrong order, each has to be followed by its issuer; put them in the order 1, 3, 2",
        ),
        (
            "mx.pem",
            "mx.key",
            "the certificate of the issuer, \"CN=inner\", is not in mx.pem, so most clients cannot verify the certificate; append the \
             intermediate certificates (certbot: take fullchain.pem, not cert.pem)",
        ),
        (
            "ed25519.pem",
            "ed25519.key",
            "the certificate in ed25519.pem has an Ed25519 key, which many senders cannot use; use one with an RSA or ECDSA P-256 key",
        ),
    ] {
        let output = format!("warning: GSMTP_PUB_KEY: {expected}\n");
        assert_eq!(check(folder.path(), chain, key), (0, output), "{chain}");
    }
    let (status, output) = check(folder.path(), "foreign.pem", "mx.key");
    let foreign = "warning: GSMTP_PUB_KEY: certificate 2, \"CN=other\", in foreign.pem is not an issuer of the first one; remove it\n";
    assert!(status == 0 && output.contains(foreign), "{output}");
    assert!(
        output.contains("put them in the order 1, 3, 4\n"),
        "{output}"
    );

    let credentials = TlsCredentials::load(&TlsFiles {
        chain_file: folder.path().join("full.pem"),
        key_file: folder.path().join("mx.key"),
    });
    let credentials = credentials.expect("a pair");
    let year = Duration::from_secs(365 * 86_400);
    for (now, expected) in [
        (SystemTime::now() - year, " is not valid before "),
        (SystemTime::now() + year, " has expired; "),
    ] {
        let warnings = credentials.certificate_warnings(now);
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(
            warnings.iter().all(|line| line.contains(expected)),
            "{warnings:?}"
        );
        assert!(
            warnings[1].starts_with("GSMTP_PUB_KEY: certificate 2, \"CN=inner\", in "),
            "{warnings:?}"
        );
    }
}

fn check(folder: &Path, chain: &str, key: &str) -> (i32, String) {
    write_config(folder, &[("GSMTP_PUB_KEY", chain), ("GSMTP_PRV_KEY", key)]);
    let ended = run(folder, &["check", "-config=goguerrilla.conf"]);
    assert_eq!(ended.stderr, "");
    (ended.status, ended.stdout)
}

fn make_files() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("make"), MAKE_SCRIPT).expect("a file is written");
    let mut shell = Command::new("sh");
    let output = shell.arg("make").current_dir(folder.path()).output();
    let output = output.expect("sh starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    folder
}
