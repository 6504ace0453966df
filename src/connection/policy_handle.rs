//! The settings of new sessions: the configured settings, restricted to the limits of the store.

use std::sync::{Arc, RwLock};

use crate::smtp::SessionSettings;
use crate::store::RecipientColumns;
use crate::sync;

/// The settings of new sessions that save to one store. A running session keeps its settings. Each store has its own
/// `SharedSessionSettings`, because the limits of one store do not apply to another.
#[derive(Debug)]
pub struct SharedSessionSettings {
    inner: RwLock<Inner>,
}

/// The limits of a store, known after the server first connects to the store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Limits of the columns `recipient` and `to`.
    pub recipients: RecipientColumns,
    /// Maximum size of content that fits into a row, in octets.
    pub max_content_octets: usize,
}

#[derive(Debug)]
struct Inner {
    configured: SessionSettings,
    store_limits: Option<StoreLimits>,
    current: Arc<SessionSettings>,
}

impl SharedSessionSettings {
    /// Returns settings equal to `configured`, because the limits of the store are not known yet.
    pub fn new(configured: SessionSettings) -> SharedSessionSettings {
        let current = Arc::new(configured.clone());
        SharedSessionSettings {
            inner: RwLock::new(Inner {
                configured,
                store_limits: None,
                current,
            }),
        }
    }

    /// Returns the settings for the next session.
    pub fn current(&self) -> Arc<SessionSettings> {
        let inner = sync::read_lock(&self.inner);
        Arc::clone(&inner.current)
    }

    /// Returns the settings as configured, without the limits of the store.
    pub fn configured_settings(&self) -> SessionSettings {
        let inner = sync::read_lock(&self.inner);
        inner.configured.clone()
    }

    /// Replaces the configured settings; known limits of the store still apply. The recipient hook stays if `configured` has
    /// none, because the hook comes from the embedding program and not from the configuration.
    pub fn configure(&self, mut configured: SessionSettings) {
        self.update(|inner| {
            let hook = inner.configured.recipient_hook.take();
            configured.recipient_hook = configured.recipient_hook.take().or(hook);
            inner.configured = configured;
        });
    }

    /// Sets the limits that the store's table puts on recipients and message size.
    pub fn apply_store_limits(&self, limits: StoreLimits) {
        self.update(|inner| inner.store_limits = Some(limits));
    }

    fn update(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = sync::write_lock(&self.inner);
        change(&mut inner);
        let configured = inner.configured.clone();
        inner.current = Arc::new(match inner.store_limits {
            None => configured,
            Some(limits) => SessionSettings {
                recipient_limits: Arc::new(limits.recipients),
                max_content_octets: configured.max_content_octets.min(limits.max_content_octets),
                ..configured
            },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::{AllowedHosts, RecipientCheck, RecipientHook};
    use crate::store::TableColumns;

    #[test]
    fn recipient_hook_stays_when_the_configuration_is_loaded_again() {
        let configured = SessionSettings {
            host_name: "mx.test".to_owned(),
            primary_mail_host: "mx.test".to_owned(),
            allowed_hosts: AllowedHosts::any(),
            max_content_octets: 1_000,
            max_recipients: 3,
            recipient_limits: Arc::new(TableColumns::DEFAULT.recipient_limits()),
            recipient_hook: None,
            verbose: false,
        };
        let hook = RecipientHook::new(|_| RecipientCheck::Reject);
        let shared = SharedSessionSettings::new(SessionSettings {
            recipient_hook: Some(hook),
            ..configured.clone()
        });
        let max_recipients = 7;
        shared.configure(SessionSettings {
            max_recipients,
            ..configured
        });
        let current = shared.current();
        assert_eq!(current.max_recipients, max_recipients);
        let hook = current.recipient_hook.as_ref().expect("the hook");
        assert_eq!(hook.check("u@ours.test"), RecipientCheck::Reject);
    }
}
