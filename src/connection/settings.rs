//! The settings of the running server: one snapshot, which a change replaces as a whole.

use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::net::accept_pool::AcceptPoolSettings;
use crate::net::tls::TlsCredentials;
use crate::net::trusted_proxies::TrustedProxies;
use crate::smtp::{MemoryBudget, SessionSettings};
use crate::store::{RecipientAddressColumns, SaveQueue};
use crate::sync;

/// A snapshot of the settings and resources that connections share. A connection keeps the snapshot with which it began.
#[derive(Clone)]
pub struct ConnectionSettings {
    /// The settings for new sessions: `configured_session`, restricted to the limits of the store.
    pub session: Arc<SessionSettings>,
    /// The session settings as configured, without the limits of the store.
    pub configured_session: Arc<SessionSettings>,
    /// The limits of the store that `saver` saves to.
    pub store_limits: Arc<StoreLimitsCell>,
    /// Maximum time to wait for a client (GSMTP_TIMEOUT). The server waits less if connection slots run out.
    pub client_timeout: Duration,
    /// How long a mail waits for a store that is unavailable (GM_HOLD_SECONDS).
    pub hold_time: Duration,
    /// Memory limit for the content of all connections.
    pub budget: MemoryBudget,
    /// Saves mail in the store.
    pub saver: SaveQueue,
    /// Whether each connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Certificate and key; `None` if TLS is not offered.
    pub tls: Option<TlsCredentials>,
    /// Connection limits and trusted proxies.
    pub accept: Arc<AcceptPoolSettings>,
    /// Who may read `/feed` and the metadata of mails (GM_FEED_CLIENTS).
    pub feed_clients: Arc<TrustedProxies>,
}

/// The limits of a store, known after the server first connects to the store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Limits of the columns `recipient` and `to`.
    pub recipients: RecipientAddressColumns,
    /// Maximum size of content that fits into a row, in octets.
    pub max_content_octets: usize,
}

/// Holds the limits of one store. Each store has its own cell, because the limits of one store do not apply to another.
#[derive(Default)]
pub struct StoreLimitsCell {
    limits: Mutex<Option<StoreLimits>>,
    /// The settings in which the limits take effect; unset until a snapshot with this cell is in use.
    settings: OnceLock<Weak<SharedSettings>>,
}

/// Holds the [`ConnectionSettings`] of new sessions. A change replaces the whole snapshot. Reading takes no lock; `changing`
/// lets only one change be made at a time.
pub struct SharedSettings {
    current: ArcSwap<ConnectionSettings>,
    changing: Mutex<()>,
}

impl StoreLimitsCell {
    /// Sets the limits. If a snapshot in use has this cell, the next session has the new limits.
    pub fn set_limits(&self, limits: StoreLimits) {
        // This function writes the limits before it reads `settings`; `change` sets `settings` before it reads the limits. So
        // one of the two applies the limits.
        *sync::lock(&self.limits) = Some(limits);
        if let Some(shared) = self.shared_settings() {
            shared.change_snapshot(ConnectionSettings::clone);
        }
    }

    /// Returns the settings in which the limits take effect, or `None` before a snapshot with this cell is in use.
    pub fn shared_settings(&self) -> Option<Arc<SharedSettings>> {
        self.settings.get().and_then(Weak::upgrade)
    }

    /// Returns `configured`, restricted to the limits of the store. Returns it unchanged while the limits are unknown.
    fn restricted_to_store_limits(
        &self,
        configured: &Arc<SessionSettings>,
    ) -> Arc<SessionSettings> {
        match *sync::lock(&self.limits) {
            None => Arc::clone(configured),
            Some(limits) => Arc::new(SessionSettings {
                recipient_limits: Arc::new(limits.recipients),
                max_content_octets: configured.max_content_octets.min(limits.max_content_octets),
                ..SessionSettings::clone(configured)
            }),
        }
    }
}

impl SharedSettings {
    /// Returns shared settings whose first snapshot is `settings`.
    pub fn new(settings: ConnectionSettings) -> Arc<SharedSettings> {
        let shared = Arc::new(SharedSettings {
            current: ArcSwap::from_pointee(settings),
            changing: Mutex::new(()),
        });
        shared.change_snapshot(ConnectionSettings::clone);
        shared
    }

    /// Returns the snapshot in use.
    pub fn current(&self) -> Arc<ConnectionSettings> {
        self.current.load_full()
    }

    /// Replaces the snapshot by the one that `change` makes from it, and computes the field `session` of the new one. `change`
    /// must not call this function.
    pub fn change_snapshot(
        self: &Arc<Self>,
        change: impl FnOnce(&ConnectionSettings) -> ConnectionSettings,
    ) {
        let _changing = sync::lock(&self.changing);
        let mut settings = change(&self.current.load());
        let cell = &settings.store_limits;
        let _ = cell.settings.set(Arc::downgrade(self));
        settings.session = cell.restricted_to_store_limits(&settings.configured_session);
        self.current.store(Arc::new(settings));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::trusted_proxies::TrustedProxies;
    use crate::smtp::AcceptedDomains;
    use crate::store::TableColumns;

    fn settings(max_content_octets: usize) -> ConnectionSettings {
        let session = Arc::new(SessionSettings {
            host_name: "mx.test".to_owned(),
            primary_mail_host: "mx.test".to_owned(),
            allowed_hosts: AcceptedDomains::accepting_every_domain(),
            max_content_octets,
            max_recipients: 10,
            recipient_limits: Arc::new(TableColumns::DEFAULT.columns_limiting_recipients()),
            recipient_hook: None,
            verbose: false,
        });
        ConnectionSettings {
            session: Arc::clone(&session),
            configured_session: session,
            store_limits: Arc::default(),
            client_timeout: Duration::from_secs(1),
            hold_time: Duration::ZERO,
            budget: MemoryBudget::new(1),
            saver: SaveQueue::new_discarding(Arc::default()),
            proxy_protocol: false,
            tls: None,
            accept: Arc::new(AcceptPoolSettings {
                max_clients: 1,
                trusted_proxies: TrustedProxies::default(),
                max_clients_per_address: 0,
                busy_reply: Vec::new(),
                address_limit_reply: Vec::new(),
            }),
            feed_clients: Arc::default(),
        }
    }

    fn store_limits_with_max_content(max_content_octets: usize) -> StoreLimits {
        StoreLimits {
            recipients: TableColumns::DEFAULT.columns_limiting_recipients(),
            max_content_octets,
        }
    }

    #[test]
    fn store_limits_apply_whether_they_are_set_before_or_after_the_snapshot() {
        let early = settings(1_000);
        early
            .store_limits
            .set_limits(store_limits_with_max_content(10));
        let shared = SharedSettings::new(early);
        assert_eq!(shared.current().session.max_content_octets, 10);
        shared
            .current()
            .store_limits
            .set_limits(store_limits_with_max_content(20));
        assert_eq!(shared.current().session.max_content_octets, 20);
        assert_eq!(
            shared.current().configured_session.max_content_octets,
            1_000
        );
    }

    #[test]
    fn limits_of_a_replaced_store_do_not_apply_to_the_new_one() {
        let shared = SharedSettings::new(settings(1_000));
        let replaced = Arc::clone(&shared.current().store_limits);
        let kept = shared.current();
        shared.change_snapshot(|_| settings(500));
        replaced.set_limits(store_limits_with_max_content(10));
        assert_eq!(shared.current().session.max_content_octets, 500);
        assert_eq!(kept.session.max_content_octets, 1_000);
    }
}
