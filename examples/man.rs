//! Writes the man pages goguerrilla(8) and goguerrilla.conf(5) to a folder. `make man` updates those in dist with it.

#[path = "man/configuration.rs"]
mod configuration;
#[path = "man/markdown.rs"]
mod markdown;

use std::io::{self, Write};
use std::path::Path;
use std::{env, fs};

use clap::Command;
use clap_mangen::Man;
use goguerrilla::internals::cli;

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).unwrap_or_else(|| "dist".into());
    for (name, page) in pages()? {
        fs::write(Path::new(&folder).join(name), page)?;
    }
    Ok(())
}

/// Returns the file name and the content of each man page.
pub fn pages() -> io::Result<[(&'static str, Vec<u8>); 2]> {
    Ok([
        ("goguerrilla.8", server_page()?),
        ("goguerrilla.conf.5", configuration::page()?),
    ])
}

/// Returns goguerrilla(8): the command line from its clap definition, then the sections about running the server.
fn server_page() -> io::Result<Vec<u8>> {
    let command = cli::command_line_definition().subcommand_value_name("COMMAND");
    let mut page = Vec::new();
    // Without a date, the page changes only when its content does.
    writeln!(
        page,
        r#".TH GOGUERRILLA 8 "" "goguerrilla {}" "System Manager's Manual""#,
        command.get_version().unwrap_or_default()
    )?;
    let man = Man::new(command.clone());
    man.render_name_section(&mut page)?;
    page.extend_from_slice(SYNOPSIS.as_bytes());
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in command.get_subcommands() {
        render_command(command.clone(), &mut page)?;
    }
    page.extend_from_slice(FURTHER_SECTIONS.as_bytes());
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

/// clap_mangen would omit the values of the options.
const SYNOPSIS: &str = r#".SH SYNOPSIS
\fBgoguerrilla\fR [\fB\-config=\fIFILE\fR] [\fB\-if=\fIADDR:PORT\fR] [\fB\-v=\fIy\fR|\fIn\fR]
.br
\fBgoguerrilla\fR \fIcommand\fR [\fIoptions\fR] [\fB\-config=\fIFILE\fR]
"#;

const FURTHER_SECTIONS: &str = r#".SH SIGNALS
.TP
SIGTERM, SIGINT
Stops the server: idle clients get 421, and messages in progress are finished and saved, for at most 30 seconds. A second
signal ends the program at once.
.TP
SIGHUP
Reads the configuration and the files that it names (key and certificate, passwords, domains) again and applies what needs no
restart; if anything is invalid, nothing changes. A terminal that is closed sends this signal too; the server continues to run.
.TP
SIGUSR1
Reopens the log file, for logrotate(8).
.SH ENVIRONMENT
.TP
GOGUERRILLA_\fIKEY\fR
Sets a key of \fBgoguerrilla.conf\fR(5), such as GOGUERRILLA_GM_STORE. It takes precedence over the file, and an option
over both. An empty variable counts as unset.
.SH EXIT STATUS
0 after a clean stop, 1 if the server could not start or a command failed (one line on standard error gives the reason), 2
for wrong arguments.
.SH FILES
.TP
/etc/goguerrilla/goguerrilla.conf
The configuration that the installation creates, see \fBgoguerrilla.conf\fR(5). Without \fB\-config\fR the server reads
\fIgoguerrilla.conf\fR in the current folder.
.TP
/var/lib/goguerrilla/goguerrilla.db
The database in which that configuration stores mail.
.TP
/usr/local/share/doc/goguerrilla/docs
The documentation.
.SH EXAMPLES
.nf
nohup goguerrilla \-config=/etc/goguerrilla/goguerrilla.conf 2>&1 &
goguerrilla check \-config=/etc/goguerrilla/goguerrilla.conf
goguerrilla list \-config=/etc/goguerrilla/goguerrilla.conf \-\-to postmaster@example.com
.fi
.SH SEE ALSO
.BR goguerrilla.conf (5)
"#;
