//! What signals do to a running server: reload, log rotation, stop.

use std::thread;

use crossbeam_channel::{Receiver, bounded, never, select};

use super::resources::raise_and_check_rlimits;
use super::{ConfigLoader, ServerProcessError, log_format};
use crate::config::Config;
use crate::logging::LogFile;
use crate::os::pid_file::PidFile;
use crate::os::signals::SignalEvent;
use crate::os::systemd;
use crate::server::{Server, ServerHandle, StartError};

/// The parts of the process that are changed on a signal, and the handle of its server.
pub struct Daemon<'a> {
    /// The configuration in force.
    pub config: Config,
    pub reload_config: ConfigLoader<'a>,
    pub log_file: LogFile,
    pub handle: ServerHandle,
    pub pid_file: Option<PidFile>,
}

impl Daemon<'_> {
    /// Serves clients on another thread and handles signals on this one, until the server has stopped.
    ///
    /// # Errors
    /// [`ServerProcessError`]: a thread cannot be started, or that thread panicked.
    pub fn run(
        mut self,
        server: Server,
        events: &Receiver<SignalEvent>,
    ) -> Result<(), ServerProcessError> {
        // When the thread ends, also by a panic, it drops `serving`, and `stopped` becomes readable.
        let (serving, stopped) = bounded::<()>(0);
        let serve = move || {
            let _serving = serving;
            server.run_and_report_start(systemd::notify_ready)
        };
        let builder = thread::Builder::new().name("server".to_owned());
        let thread = builder
            .spawn(serve)
            .map_err(|error| ServerProcessError::Start(StartError::Thread(error)))?;
        self.handle_signals_until(&stopped, events);
        drop(self.pid_file);
        let outcome = thread.join();
        outcome.map_err(|_| ServerProcessError::Panicked)??;
        log::info!("stopped");
        Ok(())
    }

    fn handle_signals_until(&mut self, stopped: &Receiver<()>, events: &Receiver<SignalEvent>) {
        let mut is_stopping = false;
        let mut events = events.clone();
        loop {
            select! {
                recv(events) -> event => match event {
                    Ok(SignalEvent::Reload) if is_stopping => {
                        self.handle.refuse_reload("the server is shutting down");
                    }
                    Ok(SignalEvent::Reload) => self.reload(),
                    Ok(SignalEvent::ReopenLog) => self.reopen_log(),
                    Ok(SignalEvent::Stop) if is_stopping => self.exit_at_once(),
                    Ok(SignalEvent::Stop) | Err(_) => {
                        if event.is_err() {
                            // The signal thread has ended, so no stop request can arrive any more.
                            events = never();
                        }
                        systemd::notify_systemd_stopping();
                        self.handle.shutdown();
                        is_stopping = true;
                    }
                },
                recv(stopped) -> _ => return,
            }
        }
    }

    /// Reads the configuration again and applies it. If a step fails, the old configuration stays in force.
    fn reload(&mut self) {
        systemd::notify_reloading();
        match (self.reload_config)() {
            Ok(new_config) => self.apply_new_config(new_config),
            Err(reason) => self.handle.refuse_reload(&reason),
        }
        systemd::notify_ready();
    }

    fn apply_new_config(&mut self, new_config: Config) {
        let (running, log_file) = (&self.config, &self.log_file);
        let mut before_change = |new_config: &Config| {
            let is_log_changed = (&new_config.log_file, new_config.log_as_json)
                != (&running.log_file, running.log_as_json);
            if is_log_changed {
                let reopened = log_file.reopen(&new_config.log_file, log_format(new_config));
                reopened.map_err(|source| {
                    let file = new_config.log_file.clone();
                    ServerProcessError::Log { file, source }.to_string()
                })?;
            }
            // The new configuration may allow more clients.
            raise_and_check_rlimits(new_config);
            Ok(())
        };
        // The server has logged an error.
        if let Ok(config) = self.handle.reload_with(new_config, &mut before_change) {
            self.config = config;
        }
    }

    /// Reopens the log file. If that fails, logging continues in the old file.
    fn reopen_log(&self) {
        let format = log_format(&self.config);
        match self.log_file.reopen(&self.config.log_file, format) {
            Ok(()) => log::info!("log_reopened"),
            Err(error) => {
                log::error!(reason:% = error, kept = "the old log file"; "log_reopen_failed");
            }
        }
    }

    /// Ends the process after a second stop request. Messages in progress are not finished; their clients get no reply.
    fn exit_at_once(&mut self) {
        drop(self.pid_file.take());
        log::warn!("forced_exit");
        log::logger().flush();
        std::process::exit(0);
    }
}
