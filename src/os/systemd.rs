//! Notifications to systemd (sd_notify(3)). If NOTIFY_SOCKET is not in the environment, nothing is sent.

use sd_notify::NotifyState;

/// Notifies that startup or a reload has finished.
pub fn notify_ready() {
    notify_systemd(&[NotifyState::Ready]);
}

/// Notifies that a reload begins. The notification includes the monotonic time, which `Type=notify-reload` requires.
pub fn notify_reloading() {
    let since = NotifyState::monotonic_usec_now();
    notify_systemd(&[
        NotifyState::Reloading,
        since.unwrap_or(NotifyState::Reloading),
    ]);
}

/// Notifies that shutdown begins.
pub fn notify_systemd_stopping() {
    notify_systemd(&[NotifyState::Stopping]);
}

fn notify_systemd(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!(reason:% = error; "sd_notify_failed");
    }
}
