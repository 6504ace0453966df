//! Saves each mail as a file in a folder, similar to a Maildir: `folder_store [ADDRESS] [FOLDER]`.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::{env, thread};

use goguerrilla::{Config, Mail, SaveError, SaveMail, SavedId, Server};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// A folder with two subfolders: a file is written in `tmp` and renamed into `new` when it is complete.
struct FolderStore {
    tmp: PathBuf,
    new: PathBuf,
}

impl FolderStore {
    fn open(folder: &Path) -> io::Result<FolderStore> {
        let (tmp, new) = (folder.join("tmp"), folder.join("new"));
        fs::create_dir_all(&tmp)?;
        fs::create_dir_all(&new)?;
        File::open(folder)?.sync_all()?;
        Ok(FolderStore { tmp, new })
    }

    fn write(&self, tmp: &Path, new: &Path, mail: &Mail) -> io::Result<()> {
        let mut file = File::create_new(tmp)?;
        for recipient in mail.recipients() {
            file.write_all(mail.trace_fields(recipient).as_bytes())?;
        }
        file.write_all(mail.content())?;
        file.sync_all()?;
        fs::rename(tmp, new)?;
        // The name is durable only after fsync(2) of the folder.
        File::open(&self.new)?.sync_all()
    }
}

impl SaveMail for FolderStore {
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let id = mail.hash();
        let (tmp, new) = (self.tmp.join(id.as_str()), self.new.join(id.as_str()));
        self.write(&tmp, &new, mail).inspect_err(|_| {
            // The client gets 4xx and sends the mail again, so no part of it may remain.
            let _ = fs::remove_file(&tmp);
            let _ = fs::remove_file(&new);
        })?;
        Ok(SavedId::from(id))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:2525".to_owned());
    let folder = PathBuf::from(arguments.next().unwrap_or("mail".to_owned()));
    // Reports a folder that cannot be used before the first mail arrives.
    FolderStore::open(&folder)?;

    let config = Config::builder().listen(address.parse()?).build()?;
    let server = Server::builder(config)
        .store(move || Ok(FolderStore::open(&folder)?))
        .bind()?;
    let handle = server.handle();
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    // A second signal ends the wait for messages in progress.
    thread::spawn(move || signals.forever().for_each(|_| handle.shutdown()));
    println!("listening on {}", server.local_addrs()[0]);
    server.run()?;
    Ok(())
}
