//! `goguerrilla`: parse, run, print one line when that failed.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = goguerrilla::cli::run(std::env::args_os());
    log::logger().flush();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                // With standard error closed there is nobody to tell.
                let _ = writeln!(std::io::stderr(), "goguerrilla: {}", failure.text);
            }
            ExitCode::from(failure.status)
        }
    }
}
