//! Parses the keys of listeners: their addresses, certificates and trusted proxies.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::ConfigError;
use super::raw::{RawConfig, bad_value};

impl RawConfig {
    /// Parses GSMTPS_LISTEN_INTERFACE, which may be empty.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`], also if there is an address but no certificate.
    pub fn parse_tls_listen_addresses(&self) -> Result<Vec<SocketAddr>, ConfigError> {
        let key = "GSMTPS_LISTEN_INTERFACE";
        if self.configured_or_default_value(key).trim().is_empty() {
            return Ok(Vec::new());
        }
        let expected = "addresses such as \"0.0.0.0:465\", comma separated, or \"\"";
        let addresses = self.parse_list(key, expected, |text| text.parse().ok())?;
        if self.tls_files()?.is_none() {
            let expected = "GSMTP_PUB_KEY and GSMTP_PRV_KEY to be set too";
            return Err(bad_value(
                key,
                expected,
                self.configured_or_default_value(key),
            ));
        }
        Ok(addresses)
    }

    /// Returns GSMTP_PUB_KEY and GSMTP_PRV_KEY; `None` if both are empty.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] if only one of them is empty.
    pub fn tls_files(&self) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
        let missing_file = |key, other| self.missing_partner(key, "a PEM file", other);
        let file = |key| PathBuf::from(self.configured_or_default_value(key).trim());
        let (chain, key) = (file("GSMTP_PUB_KEY"), file("GSMTP_PRV_KEY"));
        match (chain.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, true) => Ok(None),
            (true, false) => Err(missing_file("GSMTP_PUB_KEY", "GSMTP_PRV_KEY")),
            (false, true) => Err(missing_file("GSMTP_PRV_KEY", "GSMTP_PUB_KEY")),
            (false, false) => Ok(Some((chain, key))),
        }
    }

    /// Parses NGINX_AUTH even if NGINX_AUTH_ENABLED is `N`, so that an invalid address is reported early.
    pub fn parse_nginx_auth_address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let expected = "an address such as \"127.0.0.1:8025\"";
        let address =
            self.parse_config_value_with("NGINX_AUTH", expected, |text| text.parse().ok())?;
        let is_enabled = self.parse_yes_or_no("NGINX_AUTH_ENABLED")?;
        Ok(is_enabled.then_some(address))
    }

    /// Parses GM_TRUSTED_PROXIES, which may be empty.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`].
    pub fn parse_trusted_proxies(&self) -> Result<Vec<IpNet>, ConfigError> {
        self.parse_address_blocks("GM_TRUSTED_PROXIES")
    }

    /// Parses a list of addresses and CIDR blocks, which may be empty.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`].
    pub fn parse_address_blocks(&self, key: &'static str) -> Result<Vec<IpNet>, ConfigError> {
        if self.configured_or_default_value(key).trim().is_empty() {
            return Ok(Vec::new());
        }
        let expected = "addresses and blocks such as \"192.0.2.1,2001:db8::/32\", or \"\"";
        self.parse_list(key, expected, |text| {
            let address = || text.parse().map(IpAddr::into).ok();
            text.parse().ok().or_else(address)
        })
    }

    /// Returns the key that sets the listen addresses. The historical spelling GSTMP takes precedence over the alias GSMTP.
    pub fn listen_key_given_in_config(&self) -> &'static str {
        if self.is_given("GSTMP_LISTEN_INTERFACE") || !self.is_given("GSMTP_LISTEN_INTERFACE") {
            "GSTMP_LISTEN_INTERFACE"
        } else {
            "GSMTP_LISTEN_INTERFACE"
        }
    }

    /// Returns a warning for each key that is set to another value than its alias.
    pub fn ignored_alias_warnings(&self) -> Vec<String> {
        let given = |key: &str| self.pairs.iter().find(|(name, _)| name == key);
        let listen = (
            self.listen_key_given_in_config(),
            "GSTMP_LISTEN_INTERFACE",
            "GSMTP_LISTEN_INTERFACE",
        );
        let user = (self.user_key_given_in_config(), "GUID", "SUID");
        let warning = |(key, name, alias): (&str, &str, &str)| {
            let ignored = if key == name { alias } else { name };
            let text = format!("{ignored}: ignored because {key} is set too; remove one of them");
            let (used, other) = (&given(key)?.1, &given(ignored)?.1);
            (used != other && !other.trim().is_empty()).then_some(text)
        };
        [listen, user].into_iter().filter_map(warning).collect()
    }
}
