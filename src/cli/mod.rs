//! The command line. Long options may have one dash, as in Go, or two.

mod check;
mod follow;
mod list_show;
mod progress;
mod prune;
mod ready;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use self::check::print_check_findings;
use self::follow::follow_mails;
use self::list_show::{list_mails, show_mail};
use self::prune::{parse_days_option, prune};
use self::ready::ask_whether_server_is_ready;
use crate::config::{Config, EnvironmentSettings, go_guerrilla_key_notes};
use crate::daemon;
use crate::panics;
use crate::server;

/// Receives mail by SMTP and stores it.
///
/// Without a command, runs the server in the foreground. Long options may be written with one dash: -config=FILE,
/// -if=ADDR:PORT, -v=y.
#[derive(Parser)]
#[command(
    name = "goguerrilla",
    version,
    about,
    long_about,
    args_override_self = true
)]
struct Arguments {
    /// Configuration file; the default is goguerrilla.conf in the current folder if it exists, else built-in defaults.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Address to listen on; overrides GSTMP_LISTEN_INTERFACE.
    #[arg(long = "if", value_name = "ADDR:PORT")]
    interface: Option<SocketAddr>,
    /// Log each line of the SMTP dialogue; overrides GSMTP_VERBOSE.
    #[arg(
        long, short = 'v', value_name = "y|n", value_parser = yes_or_no,
        num_args = 0..=1, require_equals = true, default_missing_value = "y"
    )]
    verbose: Option<bool>,
    #[command(subcommand)]
    command: Option<CliCommand>,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Checks, without changing anything, whether the server would start and could save mail; exit status 1 if not.
    Check,
    /// Prints the CREATE TABLE statement for the configured store and table name.
    Schema,
    /// Lists stored mails, newest first.
    List {
        /// List only mails to this recipient address.
        #[arg(long, value_name = "ADDR")]
        to: Option<String>,
        /// Maximum number of mails; with --follow, of those that have arrived before.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
        /// Print one JSON array instead of a table; with --follow, one object per line.
        #[arg(long)]
        json: bool,
        /// Print the newest mail last, and then each mail that arrives, until interrupted.
        #[arg(long)]
        follow: bool,
    },
    /// Prints the content of one mail, octet for octet as it was stored.
    Show {
        /// Hash of the mail, as in `list` and in the reply "queued as".
        hash: String,
    },
    /// Removes the rows that are older than a number of days, while a server may run, and prints how many.
    Prune {
        /// Age in days; a fraction is allowed, and 0 removes every row.
        #[arg(long, value_name = "N", value_parser = parse_days_option)]
        days: Duration,
        /// Only count the rows.
        #[arg(long)]
        dry_run: bool,
    },
    /// Asks /readyz of GM_STATUS_INTERFACE whether the running server takes mail, and prints the answer; exit status 1 if not.
    Ready,
}

/// An unsuccessful run: error text and exit status.
pub struct CommandFailure {
    /// One line for standard error: what, where, how to fix it. Empty if the error has been printed already.
    pub text: String,
    /// Exit status: 1 if the start or the command failed, 2 for wrong arguments.
    pub status: u8,
}

impl From<String> for CommandFailure {
    fn from(text: String) -> CommandFailure {
        CommandFailure { text, status: 1 }
    }
}

/// Returns the definition of the command line. examples/man.rs generates the man page from it.
pub fn command_line_definition() -> clap::Command {
    Arguments::command()
}

/// Runs the command given by the arguments. The first argument is the name of the program. `variables` is the environment.
///
/// # Errors
/// [`CommandFailure`] with the text and exit status.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), CommandFailure> {
    panics::install_panic_hook();
    let arguments = join_verbose_option_with_value(arguments.into_iter().map(with_two_dashes));
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return print_help_or_usage_error(&error),
    };
    let environment = EnvironmentSettings::from_variables(variables);
    let environment = environment.map_err(|error| error.error_in_one_line());
    let reload_config = || {
        let environment = environment.as_ref().map_err(String::clone)?;
        arguments.read_config_and_apply_options(environment)
    };
    let mut config = match reload_config() {
        Ok(read) => read,
        Err(text) if matches!(arguments.command, Some(CliCommand::Check)) => {
            let file = arguments.config.as_deref();
            return print_unusable_config(&text, file.unwrap_or(Path::new(DEFAULT_FILE)));
        }
        Err(text) => return Err(text.into()),
    };
    if let Some(CliCommand::List { .. } | CliCommand::Show { .. } | CliCommand::Prune { .. }) =
        &arguments.command
    {
        // GUID may not be able to read these files.
        server::read_password_files(&mut config).map_err(|error| error.to_string())?;
        daemon::become_configured_user(&config).map_err(|error| error.to_string())?;
    }
    match &arguments.command {
        None => daemon::run(config, &reload_config).map_err(|error| error.to_string().into()),
        Some(CliCommand::Check) => print_check_findings(&mut config, &reload_config),
        Some(CliCommand::Schema) => {
            let store =
                server::store_factory_of_kind(config.store).map_err(|error| error.to_string())?;
            print_stdout(store.schema(&server::table_name(&config)).as_bytes())
        }
        Some(CliCommand::List {
            to,
            limit,
            json,
            follow: true,
        }) => follow_mails(&config, to.as_deref(), *limit, *json),
        Some(CliCommand::List {
            to, limit, json, ..
        }) => list_mails(&config, to.as_deref(), *limit, *json),
        Some(CliCommand::Prune { days, dry_run }) => prune(&config, *days, *dry_run),
        Some(CliCommand::Ready) => ask_whether_server_is_ready(&config),
        Some(CliCommand::Show { hash }) => show_mail(&config, hash),
    }
}

/// Prints help to standard output, or what is wrong with the arguments to standard error.
fn print_help_or_usage_error(error: &clap::Error) -> Result<(), CommandFailure> {
    let status = error.exit_code() as u8;
    // If printing fails, the text is lost.
    let _ = error.print();
    let text = String::new();
    match status {
        0 => Ok(()),
        _ => Err(CommandFailure { text, status }),
    }
}

/// Prints the error and, for a file of Go-Guerrilla, the name of each of its keys here, as findings of `check`.
fn print_unusable_config(error: &str, file: &Path) -> Result<(), CommandFailure> {
    let notes = go_guerrilla_key_notes(file);
    let notes = notes.iter().map(|note| format!("note: {note}\n"));
    print_stdout(format!("error: {error}\n{}", notes.collect::<String>()).as_bytes())?;
    Err(String::new().into())
}

/// Converts a long option with one dash to two dashes: Go's flag package accepts one dash, but clap requires two. Converts
/// `--v` to `-v`.
fn with_two_dashes(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else {
        return argument;
    };
    let name = text.split('=').next().unwrap_or_default();
    match name {
        "-config" | "-if" | "-verbose" | "-help" | "-version" | "-to" | "-limit" | "-json"
        | "-follow" | "-days" | "-dry-run" => format!("-{text}").into(),
        "--v" => text.strip_prefix('-').unwrap_or(text).into(),
        _ => argument,
    }
}

/// Converts `-v y` to `-v=y`. The value is optional, so clap would parse a separate `y` as a command.
fn join_verbose_option_with_value(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    for argument in arguments {
        let is_value = argument
            .to_str()
            .is_some_and(|text| yes_or_no(text).is_ok());
        match joined.last_mut() {
            Some(last) if is_value && (last == "-v" || last == "--verbose") => {
                last.push("=");
                last.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "1" => Ok(true),
        "n" | "no" | "false" | "0" => Ok(false),
        _ => Err("expected y or n".to_owned()),
    }
}

impl Arguments {
    /// Reads the configuration and overrides its values, first with the environment and then with the options.
    fn read_config_and_apply_options(
        &self,
        environment: &EnvironmentSettings,
    ) -> Result<Config, String> {
        let mut config = load_config(self.config.as_deref(), environment)?;
        if let Some(address) = self.interface {
            config.listen_addresses = vec![address];
            config.set_value_source("GSTMP_LISTEN_INTERFACE", "argument -if".to_owned());
        }
        if let Some(verbose) = self.verbose {
            config.verbose = verbose;
            config.set_value_source("GSMTP_VERBOSE", "argument -v".to_owned());
        }
        Ok(config)
    }
}

fn load_config(path: Option<&Path>, environment: &EnvironmentSettings) -> Result<Config, String> {
    let default_file = Path::new(DEFAULT_FILE);
    let file = path.or_else(|| default_file.exists().then_some(default_file));
    let mut config = Config::load_with_environment(file, environment)
        .map_err(|error| error.error_in_one_line())?;
    if file.is_none() {
        let used = match environment.is_empty() {
            true => "built-in defaults",
            false => "the environment and built-in defaults",
        };
        config.warnings.push(format!(
            "no -config and no {DEFAULT_FILE} in the current folder: using {used}"
        ));
    }
    Ok(config)
}

fn print_stdout(octets: &[u8]) -> Result<(), CommandFailure> {
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(octets).and_then(|()| stdout.flush());
    match printed {
        // A reader such as `head` closed the pipe. That is not an error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| format!("standard output: {error}").into()),
    }
}

const DEFAULT_FILE: &str = "goguerrilla.conf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_dash_long_options_are_converted_to_two_dashes() {
        for (given, want) in [
            ("-config=x", "--config=x"),
            ("-if", "--if"),
            ("--config=x", "--config=x"),
            ("-v=y", "-v=y"),
            ("-configs", "-configs"),
            ("x", "x"),
        ] {
            assert_eq!(with_two_dashes(given.into()), OsString::from(want));
        }
    }

    #[test]
    fn verbose_option_takes_y_or_n_but_not_a_command_as_its_value() {
        let join = |words: &[&str]| -> Vec<String> {
            let joined = join_verbose_option_with_value(words.iter().map(OsString::from));
            joined
                .into_iter()
                .map(|word| word.into_string().unwrap())
                .collect()
        };
        assert_eq!(join(&["-v", "n", "list"]), ["-v=n", "list"]);
        assert_eq!(join(&["--verbose", "Y"]), ["--verbose=Y"]);
        assert_eq!(join(&["-v", "check"]), ["-v", "check"]);
        assert_eq!(join(&["-v=y", "y"]), ["-v=y", "y"]);
    }
}
