//! A server with a custom store: each mail becomes a file in the folder `mail`.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use goguerrilla::Mail;
use goguerrilla::{Config, Server};
use goguerrilla::{SaveError, SaveMail, SavedId};

struct FolderStore {
    folder: PathBuf,
}

impl FolderStore {
    fn write(&self, file: &Path, mail: &Mail) -> io::Result<()> {
        let mut written = File::create(file)?;
        for recipient in mail.recipients() {
            written.write_all(mail.trace_fields(recipient).as_bytes())?;
        }
        written.write_all(mail.content())?;
        written.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }
}

impl SaveMail for FolderStore {
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let file = self.folder.join(mail.hash().as_str());
        self.write(&file, mail).inspect_err(|_| {
            // The client gets 4xx and sends the mail again, so no part of it may remain.
            let _ = fs::remove_file(&file);
        })?;
        Ok(SavedId::from(mail.hash()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    fs::create_dir_all("mail")?;
    let open = || {
        let folder = "mail".into();
        Ok(FolderStore { folder })
    };
    // Serves clients until the process is ended.
    Server::builder(Config::default())
        .store(open)
        .bind()?
        .run()?;
    Ok(())
}
