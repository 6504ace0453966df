//! Accepts only the recipients that a file lists, one address a line: `recipients_from_set [CONFIGURATION] [ADDRESSES]`.
//!
//! The configuration file selects the store, as for the program `goguerrilla`.

use std::collections::HashSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use std::{env, fs, io};

use goguerrilla::{Config, RecipientCheck, Server};

/// The addresses of a file. A change of the file takes effect at the next recipient; rename a complete file over the old one.
struct RecipientFile {
    path: PathBuf,
    loaded: Mutex<LoadedSet>,
}

#[derive(Default)]
struct LoadedSet {
    modified: Option<SystemTime>,
    addresses: HashSet<String>,
}

impl RecipientFile {
    fn open(path: &Path) -> io::Result<RecipientFile> {
        let file = RecipientFile {
            path: path.to_owned(),
            loaded: Mutex::default(),
        };
        file.contains("")?;
        Ok(file)
    }

    fn contains(&self, address: &str) -> io::Result<bool> {
        let modified = Some(fs::metadata(&self.path)?.modified()?);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.modified != modified {
            // Read after `modified`: if the file changes in between, the next call reads it again.
            let text = fs::read_to_string(&self.path)?;
            let lines = text.lines().map(|line| line.trim().to_lowercase());
            loaded.addresses = lines.filter(|line| !line.is_empty()).collect();
            loaded.modified = modified;
        }
        // The local-part is as the client wrote it.
        Ok(loaded.addresses.contains(&address.to_lowercase()))
    }

    fn check(&self, address: &str) -> RecipientCheck {
        match self.contains(address) {
            Ok(true) => RecipientCheck::Accept,
            Ok(false) => RecipientCheck::Reject,
            Err(error) => {
                // A rejection would be final, so the client tries again until the file can be read.
                eprintln!("{}: {error}", self.path.display());
                RecipientCheck::Defer
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let config = arguments.next().unwrap_or("goguerrilla.conf".to_owned());
    let addresses = arguments.next().unwrap_or("recipients".to_owned());
    let recipients = RecipientFile::open(Path::new(&addresses))?;
    let server = Server::builder(Config::load(config)?)
        .recipients(move |address| recipients.check(address))
        .bind()?;
    println!("listening on {}", server.local_addrs()[0]);
    server.run()?;
    Ok(())
}
