//! The man page goguerrilla.conf(5).

use std::io;

use clap_mangen::roff::Roff;

use super::markdown;

/// Returns the page: sections of docs/configuration.md, whose keys and defaults a test compares with those of the program.
pub fn page() -> io::Result<Vec<u8>> {
    let mut page = Roff::new();
    let program = concat!("goguerrilla ", env!("CARGO_PKG_VERSION"));
    // Without a date, the page changes only when its content does.
    page.control(
        "TH",
        ["GOGUERRILLA.CONF", "5", "", program, "File Formats Manual"],
    );
    let mut text = page.render();
    text.push_str(FIRST_SECTIONS);
    for section in ["Keys", "Passwords in files", "Timeouts"] {
        let mut roff = Roff::new();
        roff.control("SH", [section.to_uppercase().as_str()]);
        markdown::append_section(CONFIGURATION, section, &mut roff);
        // `render` would repeat the definition of the apostrophe, which begins the page.
        text.push_str(&roff.to_roff().replace('\'', "\\*(Aq"));
    }
    text.push_str(LAST_SECTIONS);
    Ok(text.into_bytes())
}

const CONFIGURATION: &str = include_str!("../../docs/configuration.md");

const FIRST_SECTIONS: &str = r#".SH NAME
goguerrilla.conf \- the configuration of the SMTP server goguerrilla
.SH SYNOPSIS
.I /etc/goguerrilla/goguerrilla.conf
.SH DESCRIPTION
\fBgoguerrilla\fR(8) reads this file at its start and at SIGHUP. \fBgoguerrilla check \-config=\fIFILE\fR prints each
problem with it.
"#;

const LAST_SECTIONS: &str = r#".SH EXAMPLES
Mail for one domain is stored in a file of SQLite:
.PP
.RS 4
.nf
{
    "GM_ALLOWED_HOSTS": "example.com",
    "GSMTP_HOST_NAME": "mx.example.com",
    "GSTMP_LISTEN_INTERFACE": "0.0.0.0:25,[::]:25",
    "GM_SQLITE_FILE": "/var/lib/goguerrilla/goguerrilla.db",
    "GUID": "990",
    "SGID": "990"
}
.fi
.RE
.SH FILES
.TP
/usr/local/share/doc/goguerrilla/goguerrilla.conf.sample
Every key with its default.
.TP
/usr/local/share/doc/goguerrilla/docs
The documentation that this page refers to.
.SH SEE ALSO
.BR goguerrilla (8)
"#;
