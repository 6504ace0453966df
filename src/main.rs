//! The `goguerrilla` program. It parses the arguments and runs the command; if the command fails, the program prints one
//! line to standard error.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = goguerrilla::internals::cli::run(std::env::args_os(), std::env::vars_os());
    log::logger().flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                // If standard error is closed, the message is lost.
                let _ = writeln!(std::io::stderr(), "goguerrilla: {}", failure.text);
            }
            ExitCode::from(failure.status)
        }
    }
}
