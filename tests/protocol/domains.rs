//! GM_ALLOWED_HOSTS: each spelling of a domain, items that can never match, and large lists.

use std::fs;

use tempfile::TempDir;

use testkit::process::run;
use testkit::store::mails_after;
use testkit::{Client, Server, test, write_config};

const HOSTS: &str = "münchen.example, xn--grn-ioa.test, *.例子.测试, ours.test., _x.test, xn--zzzz--1.test, \
                     [IPv6:2001:DB8:0::1], [192.0.2.1]";

/// Paths, and whether HOSTS accepts each.
const PATHS: &[(&str, bool)] = &[
    ("<u@münchen.example>", true),
    ("<u@MÜNCHEN.Example>", true),
    ("<u@mu\u{308}nchen.example>", true),
    ("<u@xn--mnchen-3ya.example>", true),
    ("<u@XN--Mnchen-3YA.example.>", true),
    ("<u@münchen。example>", true),
    ("<u@grün.test>", true),
    ("<u@xn--GRN-ioa.test.>", true),
    ("<u@x.例子.测试>", true),
    ("<u@x.xn--fsqu00a.xn--0zwm56d>", true),
    ("<u@xn--zzzz--2.xn--fsqu00a.xn--0zwm56d>", true),
    ("<u@ours.test>", true),
    ("<u@OURS.test.>", true),
    ("<u@ｏｕｒｓ.test>", true),
    ("<u@_X.test>", true),
    ("<u@XN--ZZZZ--1.test>", true),
    ("<u@[IPv6:2001:db8::1]>", true),
    ("<u@[ipv6:2001:0DB8:0:0:0:0:0:1]>", true),
    ("<u@[192.0.2.1]>", true),
    ("<u@munchen.example>", false),
    ("<u@xn--mnchen-3yb.example>", false),
    ("<u@x.münchen.example>", false),
    ("<u@grun.test>", false),
    ("<u@例子.测试>", false),
    ("<u@x.test>", false),
    ("<u@xn--zzzz--2.test>", false),
    ("<u@［192.0.2.1］>", false),
    ("<u@foreign＠ours.test>", false),
    ("<u@ou\u{ff0f}rs.test>", false),
    ("<u@[IPv6:2001:db8::2]>", false),
    ("<u@[192.0.2.2]>", false),
];

#[test]
fn rcpt_command_and_nginx_auth_agree_on_all_spellings_of_a_domain() {
    let server = Server::start(&[
        ("GM_ALLOWED_HOSTS", HOSTS),
        ("NGINX_AUTH_ENABLED", "Y"),
        ("NGINX_AUTH", "127.0.0.1:0"),
    ]);
    let mut client = utf8_transaction(&server);
    for (path, accepted) in PATHS {
        let (want, status) = match accepted {
            true => ("250 2.1.5 ", "OK"),
            false => ("550 5.7.1 ", "Relay access denied"),
        };
        client.command(&format!("RCPT TO:{path}"), want);
        let request = format!("Auth-Method: none\r\nAuth-SMTP-To: RCPT TO:{path}");
        let answer =
            testkit::auth_http::ask(&server, &format!("GET / HTTP/1.0\r\n{request}\r\n\r\n"));
        assert_eq!(
            testkit::auth_http::header(&answer, "Auth-Status"),
            status,
            "{path}"
        );
    }
    // The other rules for a path still apply.
    for (path, want) in [
        ("<u@ours.test..>", "501 5.1.3 "),
        ("<u@.>", "501 5.1.3 "),
        ("<u@。>", "501 5.1.3 "),
        ("<u@xn--zzzz---.test>", "501 5.1.3 "),
        ("<a%foreign@grün.test>", "550 5.7.1 "),
        ("<a@foreign@grün.test>", "550 5.7.1 "),
    ] {
        client.command(&format!("RCPT TO:{path}"), want);
    }
    client.command("RSET", "250 ");
    client.command("MAIL FROM:<a@client.test.>", "250 ");
    client.command("RCPT TO:<u@münchen.example>", "553 5.6.7 ");
    client.command("RCPT TO:<u@xn--mnchen-3ya.example>", "250 2.1.5 ");
}

#[test]
fn recipient_given_in_several_domain_spellings_is_stored_once_as_first_given() {
    let server = Server::start(&[("GM_ALLOWED_HOSTS", HOSTS), ("GM_MAX_RECIPIENTS", "4")]);
    let mut client = utf8_transaction(&server);
    for path in [
        "<u@MÜNCHEN.example.>",
        "<u@xn--mnchen-3ya.example>",
        "<u@münchen.example>",
        "<@route.test.:u@XN--mnchen-3ya.example>",
        "<U@münchen.example>",
        "<u@[IPv6:2001:DB8:0::1]>",
        "<u@[ipv6:2001:db8::1]>",
        "<u@ours.test.>",
        "<u@ours.test>",
    ] {
        client.command(&format!("RCPT TO:{path}"), "250 2.1.5 ");
    }
    client.command("RCPT TO:<u@_x.test>", "452 4.5.3 ");
    client.command("DATA", "354 ");
    client.send("x\r\n.\r\n");
    client.expect("250 2.0.0 OK : queued as ");
    let rows = mails_after(&server.path("goguerrilla.db"), 0);
    let recipients: Vec<&str> = rows.iter().map(|row| row.recipient.as_str()).collect();
    assert_eq!(
        recipients,
        [
            "u@MÜNCHEN.example.",
            "U@münchen.example",
            "u@[IPv6:2001:DB8:0::1]",
            "u@ours.test."
        ]
    );
}

#[test]
fn allowed_hosts_item_that_can_never_match_is_a_start_error() {
    for item in [
        "*.*",
        "a;b",
        "http://x",
        "ours.test:25",
        "*ours.test",
        ".ours.test",
        "a.*.test",
        "**",
        "*.",
        "u@ours.test",
        "a b.test",
        "a\\u0000.test",
        "ours..test",
        "192.0.2.1",
        "2001:db8::1",
        "[2001:db8::1]",
        "a\u{a0}b.test",
        "-x.test",
        &"x".repeat(64),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        let text = format!("{{\"GM_ALLOWED_HOSTS\": \"ours.test, {item}\"}}");
        fs::write(folder.path().join("goguerrilla.conf"), text).expect("a file is written");
        let checked = run(folder.path(), &["check"]);
        let found = format!(", but found \"{}\"\n", item.replace("\\u0000", "\\0"));
        let found = found.replace('\u{a0}', "\\u{a0}");
        let output_text = &checked.stdout;
        assert_eq!(checked.status, 1, "{output_text}");
        assert!(
            output_text.starts_with("error: goguerrilla.conf: GM_ALLOWED_HOSTS: expected ")
                && output_text.ends_with(&found),
            "{output_text}"
        );
    }
    let server = Server::start(&[("GM_ALLOWED_HOSTS", ".")]);
    let mut client = utf8_transaction(&server);
    client.command("RCPT TO:<u@any.example>", "250 2.1.5 ");
}

#[test]
fn allowed_hosts_lookup_is_fast_with_100000_names() {
    let names: Vec<String> = (0..50_000)
        .flat_map(|n| [format!("n{n}.example"), format!("*.w{n}.example")])
        .collect();
    let folder = TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[("GM_ALLOWED_HOSTS", &names.join(","))]);
    let checked = run(folder.path(), &["check"]);
    assert_eq!((checked.status, checked.stdout.as_str()), (0, ""));
    let server = Server::start_in(folder, &[("GM_ALLOWED_HOSTS", &names.join(","))]);
    let mut client = utf8_transaction(&server);
    for (domain, want) in [
        ("n0.example", "250"),
        ("N49999.example.", "250"),
        ("n50000.example", "550 5.7.1"),
        ("x.y.w49999.example", "250"),
        ("w49999.example", "550 5.7.1"),
        ("x.n0.example", "550 5.7.1"),
    ] {
        client.command(&format!("RCPT TO:<u@{domain}>"), want);
    }
}

fn utf8_transaction(server: &Server) -> Client {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test> SMTPUTF8", "250 2.1.0 ");
    client
}
