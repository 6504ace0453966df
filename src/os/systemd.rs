//! Notifications to the service manager (sd_notify(3)); without NOTIFY_SOCKET in the environment they do nothing.

use sd_notify::NotifyState;

/// Notifies that the server accepts connections, also after a reload.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Notifies that a reload begins. systemd requires the time of the monotonic clock with it (`Type=notify-reload`).
pub fn notify_reloading() {
    let since = NotifyState::monotonic_usec_now();
    notify(&[
        NotifyState::Reloading,
        since.unwrap_or(NotifyState::Reloading),
    ]);
}

/// Notifies that the server shuts down.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!(reason:% = error; "sd_notify_failed");
    }
}
