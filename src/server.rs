//! The one room that wires the house: from a configuration to a running server and back to rest.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use nix::unistd::{Gid, Uid, geteuid};

use crate::config::{Config, ServerAddress, StoreKind};
use crate::connection::{self, ConnectionSettings};
use crate::http;
use crate::limits;
use crate::logging::{LogFile, LogFormat};
use crate::metrics::{self, ReloadOutcome, Reloaded};
use crate::net::listener::Listener;
use crate::net::pool::{Pool, PoolSettings};
use crate::net::tls::{TlsError, TlsFiles, TlsIdentity};
use crate::pid_file::PidFile;
use crate::privileges::{self, Identity, PrivilegeError};
use crate::signals::{self, Request};
use crate::smtp::reply::{self, Reply};
use crate::smtp::{AllowedHosts, MemoryBudget, SessionSettings};
use crate::status::{self, Status};
use crate::storage::mysql::pool::{self, Connector, Learned, MySqlHost, MySqlSettings};
use crate::storage::mysql::{Facts, MySqlStore, check};
use crate::storage::redis::{Breaker, RedisBodies, RedisPool, RedisSettings};
use crate::storage::sqlite::SqliteStore;
use crate::storage::{
    Finding, Health, OpenStore, SaveError, Saver, TableName, TableShape, Writers,
};

/// Why the server could not start: what, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening address is not to be had.
    #[error("cannot bind {address}: {source}; {fix}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
        /// What may help.
        fix: &'static str,
    },
    /// Nobody should serve strangers as root.
    #[error(
        "started as root, and {0} can be reached from other machines: set GUID and SGID to the ids of another user and \
         group, or listen on loopback only"
    )]
    StaysRoot(SocketAddr),
    /// Privileges could not be dropped.
    #[error("GUID, SGID: {0}")]
    Privileges(#[from] PrivilegeError),
    /// The PID file cannot be written.
    #[error("PID_FILE: cannot write {file}: {source}; name a file in a folder that exists", file = .file.display())]
    Pid {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log file cannot be opened.
    #[error("GSMTP_LOG_FILE: cannot open {file}: {source}; name a file this user may append to", file = .file.display())]
    Log {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Key or certificate are no good.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The embedded store cannot be opened.
    #[error("GM_SQLITE_FILE: {0}")]
    Store(SaveError),
    /// The URL of Redis is none.
    #[error(
        "{0}; expected \"127.0.0.1:6379\", a socket path or \"redis://user:pass@host:port/db\""
    )]
    Redis(String),
    /// The kernel refuses a thread or a signal handler.
    #[error("cannot start: {0}; raise the limits of processes and memory for this user")]
    Kernel(std::io::Error),
}

/// What sessions decide by, replaced whole when more is known.
type SharedSession = Arc<RwLock<Arc<SessionSettings>>>;

/// Runs the server until it is told to stop. `notes` are said in the log once it is open.
///
/// # Errors
/// [`StartError`] when it could not start.
pub fn run(config: &Config, notes: &[String]) -> Result<(), StartError> {
    run_on(config, notes, |session| start_store(config, session))
}

/// Runs the server with a store of your own instead of GM_STORE's, on one writer's thread.
///
/// `open` is called there, and again should the store ever panic.
///
/// # Errors
/// [`StartError`] when it could not start.
pub fn run_with_store(config: &Config, open: OpenStore) -> Result<(), StartError> {
    run_on(config, &[], |_| {
        let started = Writers::start(1, false, Health::up(), Arc::clone(&open));
        let (saver, writers) = started.map_err(StartError::Kernel)?;
        Ok((saver, Some(writers)))
    })
}

fn run_on(
    config: &Config,
    notes: &[String],
    start_store: impl FnOnce(&SharedSession) -> Result<(Saver, Option<Writers>), StartError>,
) -> Result<(), StartError> {
    let identity = identity(config)?;
    let listeners = bind_all(config)?;
    let status_listener = bind_inside(config.status_address, STATUS_BIND_FIX)?;
    let log_file = open_log(config)?;
    for note in notes {
        log::warn!(note = note.as_str(); "configuration");
    }
    if identity.is_none() && geteuid().is_root() {
        log::warn!(fix = "set GUID and SGID to the ids of another user and group"; "runs_as_root");
    }
    let pid_file = config.pid_file.as_deref().map(write_pid_file).transpose()?;
    let tls = load_tls(config)?;
    let inside = status_listener.iter().count() * (1 + http::MAX_CONNECTIONS);
    raise_descriptor_limit(config.max_clients + listeners.len() + 4 * config.save_workers + inside);
    if let Some(identity) = identity {
        hand_over(identity, &log_file, pid_file.as_ref());
        privileges::drop_to(identity)?;
        log::info!(user:% = identity.user, group:% = identity.group; "privileges_dropped");
        for warning in tls.iter().flat_map(TlsIdentity::unreadable_files) {
            log::warn!(warning = warning.as_str(); "certificate");
        }
    }
    limits::prefer_long_turns();
    // Threads from here on.
    log_file.start_writing().map_err(StartError::Kernel)?;
    let requests = signals::listen().map_err(StartError::Kernel)?;
    let session = Arc::new(RwLock::new(Arc::new(session_settings(config))));
    let (saver, writers) = start_store(&session)?;
    let settings = ConnectionSettings {
        session,
        client_timeout: config.client_timeout,
        budget: MemoryBudget::new(config.max_memory_octets),
        saver,
        tls: tls.clone(),
    };
    let (budget, health) = (settings.budget.clone(), settings.saver.health());
    let serve = move |client: &_| connection::serve(client, &settings);
    let pool = Pool::new(pool_settings(config), Box::new(serve));
    pool.watch_deadlines().map_err(StartError::Kernel)?;
    if let Some(listener) = &status_listener {
        start_status(listener, &pool, budget, health, tls.as_ref())?;
    }
    for listener in &listeners {
        pool.open(listener).map_err(StartError::Kernel)?;
        log::info!(address:% = listener.address(), tls = listener.tls_at_once(), version = env!("CARGO_PKG_VERSION"); "listening");
    }
    serve_requests(config, &requests, tls.as_ref(), &log_file);
    let give_up_at = Instant::now() + DRAIN_PATIENCE;
    drain(&pool, &listeners, &requests, give_up_at);
    if let Some(writers) = writers {
        finish(writers, &requests, give_up_at);
    }
    // The status page is there to the end.
    if let Some(listener) = status_listener {
        listener.close();
    }
    if let Some(pid_file) = pid_file {
        pid_file.remove();
    }
    log::info!("stopped");
    Ok(())
}

/// Whom to become. `None` leaves us who we are: not root, or root on loopback only.
fn identity(config: &Config) -> Result<Option<Identity>, StartError> {
    if let Some((user, group)) = config
        .run_as
        .filter(|(user, group)| *user != 0 && *group != 0)
    {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        return Ok(Some(Identity { user, group }));
    }
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    let mut addresses = listen_addresses(config).chain(config.status_address);
    match addresses.find(|address| !is_loopback(address)) {
        Some(address) if geteuid().is_root() => Err(StartError::StaysRoot(address)),
        _ => Ok(None),
    }
}

fn open_log(config: &Config) -> Result<LogFile, StartError> {
    LogFile::open(&config.log_file, log_format(config)).map_err(|source| StartError::Log {
        file: config.log_file.clone(),
        source,
    })
}

fn write_pid_file(file: &Path) -> Result<PidFile, StartError> {
    PidFile::write(file).map_err(|source| StartError::Pid {
        file: file.to_owned(),
        source,
    })
}

/// What was made as root has to be there for whom we become, at the next start too.
fn hand_over(identity: Identity, log_file: &LogFile, pid_file: Option<&PidFile>) {
    let log = log_file.hand_to(identity.user, identity.group);
    let pid = pid_file.map_or(Ok(()), |pid_file| {
        privileges::hand_over(pid_file.file(), identity)
    });
    for (what, outcome) in [("log file", log), ("PID file", pid)] {
        if let Err(error) = outcome {
            log::warn!(file = what, reason:% = error; "not_handed_over");
        }
    }
}

fn pool_settings(config: &Config) -> PoolSettings {
    let said = |reply: &Reply| {
        let mut octets = Vec::new();
        reply.write_to(&mut octets);
        octets
    };
    PoolSettings {
        max_clients: config.max_clients,
        max_clients_per_address: config.max_clients_per_address,
        full: said(&reply::R421_TOO_BUSY),
        address_full: said(&reply::R421_TOO_MANY_FROM_ADDRESS),
    }
}

fn raise_descriptor_limit(sockets: usize) {
    let needed = (sockets + SPARE_DESCRIPTORS) as u64;
    let limit = limits::raise_descriptor_limit(needed);
    if limit < needed {
        log::warn!(limit = limit, needed = needed, fix = "raise `ulimit -n` or lower GM_MAX_CLIENTS"; "few_descriptors");
    }
}

/// Does what administrators ask for and looks after the certificate, until it is time to stop.
fn serve_requests(
    config: &Config,
    requests: &Receiver<Request>,
    tls: Option<&TlsIdentity>,
    log_file: &LogFile,
) {
    loop {
        match requests.recv_timeout(TLS_FILES_LOOKED_AT) {
            Ok(Request::Reload) => {
                log::info!("reload");
                tls.map(reload_tls);
            }
            Ok(Request::ReopenLog) => match log_file.reopen(&config.log_file, log_format(config)) {
                Ok(()) => log::info!("log_reopened"),
                Err(error) => {
                    log::error!(reason:% = error, kept = "the old log"; "log_not_reopened");
                }
            },
            Err(RecvTimeoutError::Timeout) => {
                tls.filter(|tls| tls.files_have_changed()).map(reload_tls);
            }
            // A lost channel counts as a wish to stop.
            Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn reload_tls(tls: &TlsIdentity) {
    match tls.reload() {
        Ok(()) => {
            metrics::RELOADS.count((Reloaded::Certificate, ReloadOutcome::Applied));
            log::info!("certificate_renewed");
            warn_of_tls(tls);
        }
        Err(error) => {
            metrics::RELOADS.count((Reloaded::Certificate, ReloadOutcome::Refused));
            log::error!(reason:% = error, kept = "the pair in service"; "certificate_refused")
        }
    }
}

fn load_tls(config: &Config) -> Result<Option<TlsIdentity>, TlsError> {
    let Some(files) = tls_files(config) else {
        return Ok(None);
    };
    let tls = TlsIdentity::load(&files)?;
    warn_of_tls(&tls);
    Ok(Some(tls))
}

fn warn_of_tls(tls: &TlsIdentity) {
    for warning in tls.warnings(SystemTime::now()) {
        log::warn!(warning = warning.as_str(); "certificate");
    }
}

fn tls_files(config: &Config) -> Option<TlsFiles> {
    let (chain_file, key_file) = config.tls_files.clone()?;
    Some(TlsFiles {
        chain_file,
        key_file,
    })
}

/// What `check` finds before it looks at the store: keys are read as who we are, then we become the server's user for
/// good, as the server would.
pub fn check_keys_and_become_server_user(config: &Config) -> Vec<Finding> {
    let loaded = tls_files(config)
        .map(|files| TlsIdentity::load(&files))
        .transpose();
    let (tls, mut findings) = match loaded {
        Ok(tls) => (tls, Vec::new()),
        Err(error) => (None, vec![Finding::error(error.to_string())]),
    };
    let became =
        identity(config).and_then(|identity| Ok(identity.map(privileges::drop_to).transpose()?));
    if let Err(error) = became {
        findings.push(Finding::error(error.to_string()));
    }
    if let Some(tls) = &tls {
        let warnings = tls
            .warnings(SystemTime::now())
            .into_iter()
            .chain(tls.unreadable_files());
        findings.extend(warnings.map(Finding::warning));
    }
    findings
}

/// Lets the writers save what has queued up and close the store; whoever still waits by then was told 451.
fn finish(writers: Writers, requests: &Receiver<Request>, give_up_at: Instant) {
    let (done, finished) = bounded(1);
    let helper = thread::Builder::new()
        .name("finish".to_owned())
        .spawn(move || {
            writers.finish();
            // Nobody listens any more if it took too long.
            let _ = done.send(());
        });
    while helper.is_ok() && finished.recv_timeout(DRAIN_TICK) == Err(RecvTimeoutError::Timeout) {
        if requests.try_recv() == Ok(Request::Stop) {
            stop_at_once();
        }
        if Instant::now() > give_up_at + FINISH_PATIENCE {
            log::error!(reason = "the store did not finish"; "cut_off");
            return;
        }
    }
}

fn stop_at_once() -> ! {
    log::warn!("stopped_at_once");
    log::logger().flush();
    std::process::exit(0);
}

/// Lets idle clients go, and the others finish what they have under way, for at most [`DRAIN_PATIENCE`].
fn drain(
    pool: &Pool,
    listeners: &[Arc<Listener>],
    requests: &Receiver<Request>,
    give_up_at: Instant,
) {
    for listener in listeners {
        listener.close();
    }
    pool.drain();
    log::info!(clients = pool.places_taken(); "shutdown");
    while pool.places_taken() > 0 && Instant::now() < give_up_at {
        if requests.recv_timeout(DRAIN_TICK) == Ok(Request::Stop) {
            stop_at_once();
        }
    }
    if pool.places_taken() > 0 {
        log::warn!(clients = pool.places_taken(); "cut_off");
        pool.cut();
    }
}

/// The table as far as it is known.
pub fn session_settings(config: &Config) -> SessionSettings {
    let host_name = match config.host_name.as_str() {
        "" => machine_name(),
        name => name.to_owned(),
    };
    SessionSettings {
        primary_mail_host: match config.primary_mail_host.as_str() {
            "" => host_name.clone(),
            name => name.to_owned(),
        },
        host_name,
        allowed_hosts: AllowedHosts::new(config.allowed_hosts.iter().map(String::as_str)),
        max_content_octets: config.max_content_octets,
        max_recipients: config.max_recipients,
        to_column: TableShape::PRINTED.to,
        recipient_column: TableShape::PRINTED.recipient,
        verbose: config.verbose,
    }
}

/// The table's name; the configuration has seen to it that it is one.
pub fn table_name(config: &Config) -> TableName {
    TableName::parse(&config.mail_table).unwrap_or_default()
}

fn start_store(
    config: &Config,
    session: &SharedSession,
) -> Result<(Saver, Option<Writers>), StartError> {
    match config.store {
        StoreKind::Discard => {
            log::warn!(store = "discard", note = "every mail is thanked for and dropped"; "store");
            Ok((Saver::discard(), None))
        }
        StoreKind::Sqlite => {
            let (file, table) = (config.sqlite_file.clone(), table_name(config));
            // Opened once here, so that a file that can never be written is an error at start.
            SqliteStore::open(&file, &table).map_err(StartError::Store)?;
            let open: OpenStore = Arc::new(move || Ok(Box::new(SqliteStore::open(&file, &table)?)));
            let (saver, writers) =
                Writers::start(1, true, Health::up(), open).map_err(StartError::Kernel)?;
            log::info!(store = "sqlite", file:% = config.sqlite_file.display(); "store");
            Ok((saver, Some(writers)))
        }
        StoreKind::MySql => start_mysql(config, session),
    }
}

fn start_mysql(
    config: &Config,
    session: &SharedSession,
) -> Result<(Saver, Option<Writers>), StartError> {
    let health = Health::default();
    let connector = Connector::new(mysql_settings(config), learn_into(config, session), &health);
    let pool = pool::pool(&connector);
    pool::watch(&pool).map_err(StartError::Kernel)?;
    let redis = redis_settings(config);
    let bodies = redis
        .as_ref()
        .map(|redis| RedisPool::new(redis, config.save_workers));
    let (bodies, breaker) = (
        bodies.transpose().map_err(StartError::Redis)?,
        Breaker::default(),
    );
    log::info!(store = "mysql", hosts = config.mysql_hosts.len(), redis = redis.is_some(); "store");
    if let Some(redis) = redis.clone() {
        // Redis may be slow to answer, and nothing waits for what it says.
        let spawned = thread::Builder::new()
            .name("redis-check".to_owned())
            .spawn(move || {
                check::redis(&redis).iter().for_each(log_finding);
            });
        spawned.map_err(StartError::Kernel)?;
    }
    let open: OpenStore = Arc::new(move || {
        // Redis never costs a mail, nor does a thread for it that cannot be started.
        let bodies = bodies.as_ref().and_then(|pool| {
            let started = RedisBodies::start(pool, &breaker);
            started
                .inspect_err(|error| log::error!(reason:% = error; "redis_trouble"))
                .ok()
        });
        Ok(Box::new(MySqlStore::new(
            connector.clone(),
            pool.clone(),
            bodies,
        )))
    });
    let (saver, writers) =
        Writers::start(config.save_workers, true, health, open).map_err(StartError::Kernel)?;
    Ok((saver, Some(writers)))
}

/// Sessions to come decide by the table as it really is; what is wrong with it is said whenever that changes.
fn learn_into(config: &Config, session: &SharedSession) -> Learned {
    let (session, table) = (Arc::clone(session), table_name(config));
    let configured = session_settings(config);
    let last = Mutex::new(None);
    Arc::new(move |facts: &Facts| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref() == Some(facts) {
            return;
        }
        *last = Some(facts.clone());
        let findings = check::of_facts(facts, &table, configured.max_content_octets);
        findings.iter().for_each(log_finding);
        if let Some(shape) = &facts.shape {
            let learned = SessionSettings {
                to_column: shape.to,
                recipient_column: shape.recipient,
                max_content_octets: configured
                    .max_content_octets
                    .min(facts.max_content_octets()),
                ..configured.clone()
            };
            *session.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(learned);
        }
    })
}

fn log_finding(finding: &Finding) {
    match finding.is_error() {
        true => log::error!(finding = finding.text(); "store_check"),
        false => log::warn!(finding = finding.text(); "store_check"),
    }
}

/// How the database is reached.
pub fn mysql_settings(config: &Config) -> MySqlSettings {
    let host = |address: &ServerAddress| match address {
        ServerAddress::Tcp(name, port) => MySqlHost::Tcp(name.clone(), *port),
        ServerAddress::Socket(path) => MySqlHost::Socket(path.clone()),
    };
    MySqlSettings {
        hosts: config.mysql_hosts.iter().map(host).collect(),
        user: config.mysql_user.clone(),
        password: config.mysql_password.reveal().to_owned(),
        database: config.mysql_database.clone(),
        table: table_name(config),
        workers: config.save_workers,
    }
}

/// A connector for commands that read; what it learns changes nothing.
pub fn mysql_connector(config: &Config) -> Connector {
    Connector::new(mysql_settings(config), Arc::new(|_| ()), &Health::default())
}

/// How Redis is reached, if it is used.
pub fn redis_settings(config: &Config) -> Option<RedisSettings> {
    config.redis_url.as_ref().map(|url| RedisSettings {
        url: url.reveal().to_owned(),
        expire_seconds: config.redis_expire_seconds,
    })
}

fn bind_all(config: &Config) -> Result<Vec<Arc<Listener>>, StartError> {
    let plain = config
        .listen_addresses
        .iter()
        .map(|address| (*address, false));
    let tls = config
        .tls_listen_addresses
        .iter()
        .map(|address| (*address, true));
    let has_v4_wildcard = |port| {
        let is_it = |address: &SocketAddr| address.is_ipv4() && address.ip().is_unspecified();
        listen_addresses(config).any(|address| is_it(&address) && address.port() == port)
    };
    plain
        .chain(tls)
        .map(|(address, tls_at_once)| {
            let only_v6 = address.is_ipv6() && has_v4_wildcard(address.port());
            let bound = Listener::bind(address, only_v6, tls_at_once);
            bound.map(Arc::new).map_err(|source| StartError::Bind {
                address,
                fix: bind_fix(&source),
                source,
            })
        })
        .collect()
}

/// A port for questions from inside; `fix` says what to do where it is not to be had.
fn bind_inside(
    address: Option<SocketAddr>,
    fix: &'static str,
) -> Result<Option<Arc<Listener>>, StartError> {
    let bind = |address| {
        let bound = Listener::bind(address, false, false);
        bound.map(Arc::new).map_err(|source| StartError::Bind {
            address,
            source,
            fix,
        })
    };
    address.map(bind).transpose()
}

fn start_status(
    listener: &Arc<Listener>,
    pool: &Arc<Pool>,
    budget: MemoryBudget,
    health: Health,
    tls: Option<&TlsIdentity>,
) -> Result<(), StartError> {
    let status = Status {
        pool: Arc::clone(pool),
        budget,
        health,
        tls: tls.cloned(),
    };
    status::set_start();
    http::serve(listener, Arc::new(move |request| status.answer(request)))
        .map_err(StartError::Kernel)?;
    log::info!(address:% = listener.address(); "status_page");
    Ok(())
}

fn listen_addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let plain = config.listen_addresses.iter();
    plain.chain(&config.tls_listen_addresses).copied()
}

fn bind_fix(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "start as root or choose -if=127.0.0.1:2525",
        std::io::ErrorKind::AddrInUse => {
            "end the program that listens there or choose another port with -if="
        }
        _ => "name an address of this machine in GSTMP_LISTEN_INTERFACE or with -if=",
    }
}

fn log_format(config: &Config) -> LogFormat {
    if config.log_as_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    }
}

fn machine_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// What helps where the status page has no port.
const STATUS_BIND_FIX: &str =
    "set GM_STATUS_INTERFACE to an address of this machine and a free port above 1023";
/// How long messages under way may take to finish.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How often the files of key and certificate are looked at; a renewed pair is served within a minute.
const TLS_FILES_LOOKED_AT: Duration = Duration::from_secs(20);
/// How much longer the store may take to finish a commit that is under way.
const FINISH_PATIENCE: Duration = Duration::from_secs(3);
/// How often draining looks whether it is done.
const DRAIN_TICK: Duration = Duration::from_millis(10);
/// Log, store with its files, signals, standard streams, and room for a library or two.
const SPARE_DESCRIPTORS: usize = 64;
