//! Tests of whole configurations.

use super::*;

#[test]
fn empty_json_object_gives_the_default_configuration() {
    let config = Config::from_json("{}").unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.max_content_octets, 131_072);
    assert_eq!(config.listen_addresses, ["127.0.0.1:2525".parse().unwrap()]);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn numbers_and_booleans_are_parsed_as_if_quoted() {
    let text = r#"{"GSMTP_MAX_SIZE": 1000, "GSMTP_VERBOSE": true, "GM_STORE": "Discard",
                   "GSMTP_LISTEN_INTERFACE": "[::1]:25, 127.0.0.1:25"}"#;
    let config = Config::from_json(text).unwrap();
    assert_eq!(config.max_content_octets, 1_000);
    assert!(config.verbose);
    assert_eq!(config.store, StoreKind::Discard);
    assert_eq!(config.listen_addresses.len(), 2);
}

#[test]
fn unknown_key_warning_names_the_nearest_known_key() {
    let config = Config::from_json(r#"{"GSMTP_MAXSIZE": "1"}"#).unwrap();
    assert_eq!(
        config.warnings[0],
        "GSMTP_MAXSIZE: unknown key, ignored; the nearest known key is GSMTP_MAX_SIZE"
    );
}

#[test]
fn control_characters_in_a_key_are_escaped_in_warnings_and_errors() {
    let config = Config::from_json(r#"{"GUID\n\u007f": ""}"#).unwrap();
    let want = r"GUID\n\u{7f}: unknown key, ignored; the nearest known key is GUID";
    assert_eq!(config.warnings[0], want);
    for text in [r#"{"a\nb": "", "a\nb": ""}"#, r#"{"a\nb": []}"#] {
        let error = Config::from_json(text).unwrap_err().to_string();
        assert!(error.contains(r"a\nb: "), "{error}");
    }
}

#[test]
fn mysql_keys_select_the_mysql_store_and_addresses_are_parsed() {
    let parse = |text: &str| Config::from_json(text).unwrap();
    assert_eq!(parse(r#"{"MYSQL_USER": "u"}"#).store, StoreKind::MySql);
    let config = parse(r#"{"MYSQL_HOST": "a, b:3307,/run/my.sock", "GM_STORE": "sqlite"}"#);
    assert_eq!(config.store, StoreKind::Sqlite);
    let tcp = |name: &str, port| DatabaseServerAddress::Tcp(name.to_owned(), port);
    let socket = DatabaseServerAddress::Socket("/run/my.sock".to_owned());
    assert_eq!(config.mysql_hosts, [tcp("a", 3306), tcp("b", 3307), socket]);
    for (given, want) in [
        ("", &[][..]),
        ("127.0.0.1:6380", &["redis://127.0.0.1:6380/"]),
        ("[::1]:6380", &["redis://[::1]:6380/"]),
        ("/run/redis.sock", &["redis+unix:///run/redis.sock"]),
        ("redis://:pass@h:1/2", &["redis://:pass@h:1/2"]),
        ("redis://:a,b:c@h:1/", &["redis://:a,b:c@h:1/"]),
        ("a:1, b", &["redis://a:1/", "redis://b:6379/"]),
        (
            "redis://:pass@a:1,b:2",
            &["redis://:pass@a:1", "redis://b:2/"],
        ),
    ] {
        let config = parse(&format!(r#"{{"REDIS_INTERFACE": "{given}"}}"#));
        let urls: Vec<&str> = config.redis_urls.iter().map(Secret::reveal).collect();
        assert_eq!(urls, want);
    }
}

#[test]
fn loopback_is_trusted_when_nginx_auth_is_on_and_no_proxy_is_configured() {
    let trusted = |text: &str| {
        let blocks = Config::from_json(text).unwrap().trusted_proxies();
        let blocks: Vec<String> = blocks.iter().map(IpNet::to_string).collect();
        blocks.join(" ")
    };
    for (text, want) in [
        ("{}", ""),
        (r#"{"NGINX_AUTH_ENABLED": "Y"}"#, "127.0.0.1/32 ::1/128"),
        (
            r#"{"NGINX_AUTH_ENABLED": "Y", "GM_TRUSTED_PROXIES": ""}"#,
            "127.0.0.1/32 ::1/128",
        ),
        (
            r#"{"NGINX_AUTH_ENABLED": "Y", "GM_TRUSTED_PROXIES": "192.0.2.1, 2001:db8::/32"}"#,
            "192.0.2.1/32 2001:db8::/32",
        ),
    ] {
        assert_eq!(trusted(text), want, "{text}");
    }
}

#[test]
fn value_of_the_other_spelling_is_ignored_with_a_warning() {
    let listen = "GSMTP_LISTEN_INTERFACE: ignored because GSTMP_LISTEN_INTERFACE is set too; remove one of them";
    let user = "SUID: ignored because GUID is set too; remove one of them";
    for (pairs, want) in [
        (
            r#""GSTMP_LISTEN_INTERFACE": "127.0.0.1:1", "GSMTP_LISTEN_INTERFACE": "127.0.0.1:2""#,
            &[listen][..],
        ),
        (r#""GUID": "5", "SUID": "6", "SGID": "7""#, &[user]),
        (r#""SUID": "6", "GUID": "5", "SGID": "7""#, &[user]),
        (r#""GUID": "5", "SUID": "5", "SGID": "7""#, &[]),
        (r#""GUID": "", "SUID": "6", "SGID": "7""#, &[]),
        (r#""GUID": "5", "SUID": "", "SGID": "7""#, &[]),
    ] {
        let config = Config::from_json(&format!("{{{pairs}}}")).unwrap();
        assert_eq!(config.warnings(), want, "{pairs}");
    }
}

#[test]
fn error_in_a_long_allowed_hosts_list_is_reported_in_a_short_line() {
    let names = "ours.test,".repeat(10_000);
    let long = "x".repeat(100_000);
    for (list, found) in [
        (format!("{names}*.*"), "\"*.*\"".to_owned()),
        (
            names.clone(),
            "an empty item after \"ours.test\"".to_owned(),
        ),
        (
            format!("{names}{long}"),
            format!("\"{}…\"", "x".repeat(260)),
        ),
        ("a,,b".to_owned(), "\"a,,b\"".to_owned()),
        (",".to_owned(), "\",\"".to_owned()),
    ] {
        let text = format!(r#"{{"GM_ALLOWED_HOSTS": "{list}"}}"#);
        let error = Config::from_json(&text).unwrap_err().to_string();
        assert!(error.ends_with(&format!(", but found {found}")), "{error}");
        assert!(error.len() < 600, "{error}");
    }
}

#[test]
fn secrets_never_appear_in_debug_output_or_errors() {
    let text = r#"{"MYSQL_PASS": "s3cr3t", "REDIS_INTERFACE": "redis://:s3cr3t@h:1/"}"#;
    assert!(!format!("{:?}", Config::from_json(text).unwrap()).contains("s3cr3t"));
    let error = Config::from_json(r#"{"REDIS_INTERFACE": "s3cr3t@:x"}"#).unwrap_err();
    assert!(!error.to_string().contains("s3cr3t"), "{error}");
}

#[test]
fn default_of_each_key_parses_to_the_default_configuration() {
    let pairs: Vec<String> = raw::KEYS
        .iter()
        .map(|(key, default)| format!("\"{key}\": \"{default}\""))
        .collect();
    let config = Config::from_json(&format!("{{{}}}", pairs.join(","))).unwrap();
    assert_eq!(config, Config::default());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}
