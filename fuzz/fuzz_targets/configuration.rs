//! Configurations: any text yields settings within their limits or a one-line error without secrets.
#![no_main]

use goguerrilla::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parsed = Config::from_json(text);
    let mut output = Vec::new();
    match &parsed {
        Ok(config) => {
            assert_eq!(config.find_broken_invariant(), None);
            output.extend(config.warnings().iter().cloned());
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
