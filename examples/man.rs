//! Writes the man page goguerrilla(8) to standard output. `make man` updates dist/goguerrilla.8 with it.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;
use goguerrilla::cli;

fn main() -> io::Result<()> {
    io::stdout().write_all(&page()?)
}

/// Returns the man page: what clap knows about the command line, then the sections that administrators need.
pub fn page() -> io::Result<Vec<u8>> {
    let command = cli::command().subcommand_value_name("COMMAND");
    let mut page = Vec::new();
    // Without a date, the page changes only when its content does.
    writeln!(
        page,
        r#".TH GOGUERRILLA 8 "" "goguerrilla {}" "System Manager's Manual""#,
        command.get_version().unwrap_or_default()
    )?;
    let man = Man::new(command.clone());
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in command.get_subcommands() {
        render_command(command.clone(), &mut page)?;
    }
    page.extend_from_slice(BESIDE_THE_COMMAND_LINE.as_bytes());
    Ok(page)
}

/// Renders a command as a section of this page; clap_mangen would refer to a separate page.
fn render_command(command: Command, page: &mut Vec<u8>) -> io::Result<()> {
    writeln!(page, ".SS {}", command.get_name())?;
    let about = command.get_about().map(ToString::to_string);
    writeln!(page, "{}.", about.unwrap_or_default())?;
    let mut options = Vec::new();
    Man::new(command.disable_help_flag(true)).render_options_section(&mut options)?;
    // The command's name is already the heading.
    let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS\n", "");
    page.write_all(options.as_bytes())
}

const BESIDE_THE_COMMAND_LINE: &str = r#".SH SIGNALS
.TP
SIGTERM, SIGINT
Stops: idle clients are told 421, mail under way is finished and saved, for at most 30 seconds. A second one ends the
program at once.
.TP
SIGHUP
Reads again what may change while it runs. A terminal that closes sends it too, and the server runs on.
.TP
SIGUSR1
Opens the log file anew, for logrotate(8).
.SH EXIT STATUS
0 after a clean stop, 1 when something could not be done, which one line on standard error explains, 2 for wrong
arguments.
.SH FILES
.TP
/etc/goguerrilla/goguerrilla.conf
The configuration that \fBmake install\fR makes. Without \fB\-config\fR the server looks for
\fIgoguerrilla.conf\fR in the current folder.
.TP
/var/lib/goguerrilla/goguerrilla.db
The mails, where that configuration keeps them.
.TP
/usr/local/share/doc/goguerrilla/README.md
What every key of the configuration means, and much more.
.SH EXAMPLES
.nf
nohup goguerrilla \-config=/etc/goguerrilla/goguerrilla.conf 2>&1 &
goguerrilla check \-config=/etc/goguerrilla/goguerrilla.conf
goguerrilla list \-config=/etc/goguerrilla/goguerrilla.conf \-\-to postmaster@example.com
.fi
"#;
