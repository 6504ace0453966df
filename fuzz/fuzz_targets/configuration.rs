//! Configurations: any text yields settings within their limits or a one-line error without secrets.
#![no_main]

use goguerrilla::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parsed = Config::parse(text);
    let mut output = Vec::new();
    match &parsed {
        Ok((config, warnings)) => {
            check(config);
            output.extend(warnings.iter().map(ToString::to_string));
        }
        Err(error) => output.push(error.to_string()),
    }
    for line in &output {
        assert!(
            !line.is_empty() && !line.chars().any(char::is_control),
            "{line:?}"
        );
    }
    output.push(format!("{parsed:?}"));
    // Only a secret that occurs once in the text counts, because other parts of the text may legitimately be printed.
    let values: Option<serde_json::Value> = serde_json::from_str(text).ok();
    for key in ["MYSQL_PASS", "REDIS_INTERFACE"] {
        let secret = values.as_ref().and_then(|values| values.get(key)?.as_str());
        let is_shown_otherwise =
            |secret: &str| text.matches(secret).count() != 1 || !secret.contains("s3cr3t");
        if let Some(secret) = secret.filter(|secret| !is_shown_otherwise(secret)) {
            assert!(
                !output.iter().any(|line| line.contains(secret)),
                "{secret} in {output:?}"
            );
        }
    }
});

fn check(config: &Config) {
    assert!((1..=512 << 20).contains(&config.max_content_octets));
    assert!((1..=86_400).contains(&config.client_timeout.as_secs()));
    assert!((1..=100_000).contains(&config.max_clients));
    assert!(config.max_clients_per_address <= 100_000);
    assert!((1..=10_000).contains(&config.max_recipients));
    assert!((1..=64).contains(&config.save_workers));
    assert!((1..=usize::MAX / 4).contains(&config.max_memory_octets));
    assert!(!config.listen_addresses.is_empty());
    assert!(config.tls_listen_addresses.is_empty() || config.tls_files.is_some());
    // These values become part of replies, Received fields and SQL statements.
    for host in [&config.host_name, &config.primary_mail_host] {
        assert!(host.len() <= 255 && !host.contains(|c: char| c.is_control() || c.is_whitespace()));
    }
    assert!(config.host_name.is_ascii());
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    assert!(!config.mail_table.is_empty() && config.mail_table.chars().all(is_word));
}
