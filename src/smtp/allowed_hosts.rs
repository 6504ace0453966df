//! Which recipients are ours.

use super::path::ForwardPath;

/// The recipient domains accepted. Comparison is without case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts {
    any: bool,
    hosts: Vec<String>,
    parents: Vec<String>,
}

impl AllowedHosts {
    /// From domains, `*.parent` for any subdomain of it, `*` for any domain.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> AllowedHosts {
        let mut allowed = AllowedHosts::default();
        for pattern in patterns {
            let pattern = pattern.to_lowercase();
            match pattern.strip_prefix('*') {
                Some("") => allowed.any = true,
                Some(parent) => allowed.parents.push(parent.to_owned()),
                None => allowed.hosts.push(pattern),
            }
        }
        allowed
    }

    /// Whether mail for `path` is accepted here.
    ///
    /// Where domains are restricted, a local-part that hides a route (`a%foreign@ours`) is refused: somebody behind
    /// us might follow it. `<Postmaster>` is always ours (RFC 5321 §4.5.1).
    pub fn accept(&self, path: &ForwardPath) -> bool {
        let Some(domain) = path.domain() else {
            return true;
        };
        self.any || (!path.hides_a_route() && self.lists(&domain.to_lowercase()))
    }

    fn lists(&self, domain: &str) -> bool {
        self.hosts.iter().any(|host| host == domain)
            || self
                .parents
                .iter()
                .any(|parent| domain.len() > parent.len() && domain.ends_with(parent.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_ours_by_name_or_by_parent() {
        let ours = AllowedHosts::new(["ours.test", "*.sub.test", "[192.0.2.1]"]);
        for (path, want) in [
            ("<a@ours.test>", true),
            ("<a@OURS.test>", true),
            ("<a@x.sub.test>", true),
            ("<a@y.x.sub.test>", true),
            ("<a@[192.0.2.1]>", true),
            ("<postmaster>", true),
            ("<@ours.test:a@foreign.test>", false),
            ("<a@sub.test>", false),
            ("<a@xsub.test>", false),
            ("<a@sub.ours.test>", false),
            ("<a@ours.test.evil>", false),
            ("<a@evil-ours.test>", false),
            ("<a%foreign@ours.test>", false),
            ("<foreign!a@ours.test>", false),
            ("<\"a@foreign\"@ours.test>", false),
        ] {
            let (path, _) = ForwardPath::parse(path).unwrap();
            assert_eq!(ours.accept(&path), want, "{}", path.as_str());
        }
        let any = AllowedHosts::new(["*"]);
        assert!(any.accept(&ForwardPath::parse("<a%b@c>").unwrap().0));
    }
}
