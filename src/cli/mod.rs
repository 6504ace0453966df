//! The command line: Go's single dash and the usual double dash, and the commands that read.

mod check;
mod list_show;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser, Subcommand};

use self::check::check;
use self::list_show::{as_json, as_table, expect_hash, reader};
use crate::config::{Config, StoreKind};
use crate::panics;
use crate::server;

/// Receives mail by SMTP and saves it.
///
/// Without a command: runs the server in the foreground. Long options may be written with one dash: -config=FILE,
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
    /// Configuration file; without it goguerrilla.conf in the current folder if there is one, else built-in defaults.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Where to listen, instead of GSTMP_LISTEN_INTERFACE.
    #[arg(long = "if", value_name = "ADDR:PORT")]
    interface: Option<SocketAddr>,
    /// Whether to log each line of the dialogue, instead of GSMTP_VERBOSE.
    #[arg(
        long, short = 'v', value_name = "y|n", value_parser = yes_or_no,
        num_args = 0..=1, require_equals = true, default_missing_value = "y"
    )]
    verbose: Option<bool>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Tells what would keep the server from starting or from saving mail; exit status 1 if anything would.
    Check,
    /// Prints the CREATE TABLE for the configured store and table name.
    Schema,
    /// Lists the newest mails first.
    List {
        /// Only mails of this recipient.
        #[arg(long, value_name = "ADDR")]
        to: Option<String>,
        /// How many at most.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
        /// One JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Writes one mail as it was stored, octet for octet.
    Show {
        /// The hash that `list` shows and that the client was told.
        hash: String,
    },
}

/// What ended a run badly: the line for standard error and the exit status.
pub struct Failure {
    /// One line: what, where, how to fix it.
    pub text: String,
    /// 1 could not start or do it, 2 wrong arguments.
    pub status: u8,
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, status: 1 }
    }
}

/// The command line as clap describes it, for what is made from it: examples/man.rs writes the man page.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Does what the arguments ask for; the first one is the program's name.
///
/// # Errors
/// [`Failure`] as it says.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    panics::install_hook();
    let arguments = join_verbose(arguments.into_iter().map(with_two_dashes));
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let status = error.exit_code() as u8;
            // Help goes to standard output, complaints to standard error.
            let _ = error.print();
            let text = String::new();
            return if status == 0 {
                Ok(())
            } else {
                Err(Failure { text, status })
            };
        }
    };
    let read = || arguments.read_config();
    let (config, notes) = match read() {
        Ok(read) => read,
        Err(text) if matches!(arguments.command, Some(Command::Check)) => {
            print(format!("error: {text}\n").as_bytes())?;
            return Err(Failure {
                text: String::new(),
                status: 1,
            });
        }
        Err(text) => return Err(text.into()),
    };
    match &arguments.command {
        None => server::run(&config, &notes, &read).map_err(|error| error.to_string().into()),
        Some(Command::Check) => check(&config, &notes, &read),
        Some(Command::Schema) => {
            let table = server::table_name(&config);
            let schema = match config.store {
                StoreKind::MySql => table.mysql_schema(),
                StoreKind::Sqlite | StoreKind::Discard => table.sqlite_schema(),
            };
            print(schema.as_bytes())
        }
        Some(Command::List { to, limit, json }) => {
            let mut reader = reader(&config)?;
            let mails = reader.list(to.as_deref(), *limit);
            let mails = mails.map_err(|error| error.to_string())?;
            let text = match json {
                true => as_json(&mails),
                false => as_table(&mails),
            };
            print(text.as_bytes())?;
            // All that could be read was printed.
            if let Some(trouble) = reader.warning() {
                // With standard error closed there is nobody to tell.
                let _ = writeln!(io::stderr(), "goguerrilla: {trouble}");
            }
            Ok(())
        }
        Some(Command::Show { hash }) => {
            let mut reader = reader(&config)?;
            expect_hash(hash)?;
            let mail = reader.show(hash).map_err(|error| error.to_string())?;
            match mail {
                Some(mail) => print(&mail),
                None => Err(format!(
                    "{hash}: no mail has this hash; `goguerrilla list` shows those there are"
                )
                .into()),
            }
        }
    }
}

/// Go's flags have one dash; clap's long ones have two.
fn with_two_dashes(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else {
        return argument;
    };
    let name = text.split('=').next().unwrap_or_default();
    match name {
        "-config" | "-if" | "-verbose" | "-help" | "-version" => format!("-{text}").into(),
        "--v" => text.strip_prefix('-').unwrap_or(text).into(),
        _ => argument,
    }
}

/// `-v y` is `-v=y`; clap, for which the value is optional, would take `y` for a command.
fn join_verbose(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
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
    /// The configuration with what the command line says on top, and what is to be said about it once the log is open.
    fn read_config(&self) -> Result<(Config, Vec<String>), String> {
        let (mut config, notes) = load_config(self.config.as_deref())?;
        if let Some(address) = self.interface {
            config.listen_addresses = vec![address];
        }
        if let Some(verbose) = self.verbose {
            config.verbose = verbose;
        }
        Ok((config, notes))
    }
}

fn load_config(named: Option<&Path>) -> Result<(Config, Vec<String>), String> {
    let usual = Path::new(USUAL_FILE);
    let file = match named {
        Some(file) => file,
        None if usual.exists() => usual,
        None => {
            let note =
                format!("no -config and no {USUAL_FILE} in this folder: the built-in defaults run");
            return Ok((Config::default(), vec![note]));
        }
    };
    let (config, warnings) = Config::load(file).map_err(|error| match error {
        crate::config::ConfigError::Unreadable { .. } => error.to_string(),
        _ => format!("{}: {error}", file.display()),
    })?;
    Ok((config, warnings.iter().map(ToString::to_string).collect()))
}

fn print(octets: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let printed = stdout.write_all(octets).and_then(|()| stdout.flush());
    match printed {
        // `… | head` has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| format!("standard output: {error}").into()),
    }
}

const USUAL_FILE: &str = "goguerrilla.conf";

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
            let joined = join_verbose(words.iter().map(OsString::from));
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
